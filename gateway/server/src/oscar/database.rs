//! What has to be there after a crash at any moment: definitions of services, and settings.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use rusqlite::{Connection, OptionalExtension as _};
use time::OffsetDateTime;

/// Name of the file in the data directory.
const FILE: &str = "services.db";

/// Version of its tables. A newer one is not touched.
const SCHEMA: i64 = 2;

/// The database of a gateway, which has it alone (`--data` is locked).
#[derive(Debug)]
pub(crate) struct Database {
    connection: Connection,
}

/// A service as it is kept.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) name: String,
    pub(crate) definition: String,
    /// In whole seconds.
    pub(crate) created: OffsetDateTime,
}

impl Database {
    /// Opens it, and makes its tables if they are not there. Blocks.
    ///
    /// # Errors
    /// A sentence, of what can't be opened or is of a newer schema.
    pub(crate) fn open(data: &Path) -> anyhow::Result<Self> {
        let path = data.join(FILE);
        let connection = Connection::open(&path)
            .with_context(|| format!("{} can't be opened", path.display()))?;
        // It holds tokens and secrets.
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        connection.busy_timeout(Duration::from_secs(5))?;
        // A write is on the disk when it has returned (sqlite.org/pragma.html#pragma_synchronous).
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        let schema: i64 = connection.query_row("pragma user_version", [], |row| row.get(0))?;
        anyhow::ensure!(
            schema <= SCHEMA,
            "{} is of schema {schema}, this hearth knows {SCHEMA}: use the hearth that wrote it",
            path.display()
        );
        connection.execute_batch(
            "begin immediate;
             create table if not exists services (
                 name text primary key,
                 definition text not null
             ) strict, without rowid;
             create table if not exists settings (
                 name text primary key,
                 value text not null
             ) strict, without rowid;",
        )?;
        // Asked for again: another process, for a setting, may have been faster.
        let schema: i64 = connection.query_row("pragma user_version", [], |row| row.get(0))?;
        if schema < 2 {
            // Those that were there before are as old as the first hearth that asks how old they are.
            connection.execute_batch(&format!(
                "alter table services add column created integer not null default 0;
                 update services set created = {};",
                OffsetDateTime::now_utc().unix_timestamp()
            ))?;
        }
        connection.execute_batch(&format!("pragma user_version = {SCHEMA}; commit;"))?;
        Ok(Self { connection })
    }

    /// Returns all services, by name. Blocks.
    pub(crate) fn services(&self) -> rusqlite::Result<Vec<Kept>> {
        let mut select = self
            .connection
            .prepare("select name, definition, created from services order by name")?;
        let rows = select.query_map([], |row| {
            let created: i64 = row.get(2)?;
            Ok(Kept {
                name: row.get(0)?,
                definition: row.get(1)?,
                created: OffsetDateTime::from_unix_timestamp(created)
                    .unwrap_or(OffsetDateTime::UNIX_EPOCH),
            })
        })?;
        rows.collect()
    }

    /// Keeps a service's definition, in the place of one that was there. Blocks for the disk.
    pub(crate) fn put_service(
        &self,
        name: &str,
        definition: &str,
        created: OffsetDateTime,
    ) -> rusqlite::Result<()> {
        let sql = "insert into services values (?1, ?2, ?3)
                   on conflict (name) do update set definition = excluded.definition";
        let created = created.unix_timestamp();
        let params = rusqlite::params![name, definition, created];
        self.connection.execute(sql, params).map(drop)
    }

    /// Forgets a service. Blocks for the disk.
    pub(crate) fn delete_service(&self, name: &str) -> rusqlite::Result<()> {
        let sql = "delete from services where name = ?1";
        self.connection.execute(sql, [name]).map(drop)
    }

    /// Returns a setting. Blocks.
    pub(crate) fn setting(&self, name: &str) -> rusqlite::Result<Option<String>> {
        self.connection
            .query_row(
                "select value from settings where name = ?1",
                [name],
                |row| row.get(0),
            )
            .optional()
    }

    /// Keeps a setting unless there is one, and returns what is kept. Blocks for the disk.
    pub(crate) fn make_setting(&self, name: &str, value: &str) -> rusqlite::Result<String> {
        let insert = "insert into settings values (?1, ?2) on conflict do nothing";
        self.connection.execute(insert, [name, value])?;
        let select = "select value from settings where name = ?1";
        self.connection.query_row(select, [name], |row| row.get(0))
    }

    /// Keeps a setting. Blocks for the disk.
    pub(crate) fn put_setting(&self, name: &str, value: &str) -> rusqlite::Result<()> {
        let sql = "insert into settings values (?1, ?2)
                   on conflict (name) do update set value = excluded.value";
        self.connection.execute(sql, [name, value]).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(name: &str, definition: &str, created: i64) -> Kept {
        Kept {
            name: name.to_owned(),
            definition: definition.to_owned(),
            created: OffsetDateTime::from_unix_timestamp(created).unwrap(),
        }
    }

    #[test]
    fn what_was_kept_is_there_when_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path()).unwrap();
        let put = |name: &str, definition: &str, created| {
            let created = OffsetDateTime::from_unix_timestamp(created).unwrap();
            database.put_service(name, definition, created).unwrap();
        };
        put("b", "first", 1);
        put("a", "{}", 2);
        // A change makes it no younger.
        put("b", "second", 3);
        database.put_setting("images", "[]").unwrap();
        // Not closed: what is written is not waiting for that.
        let again = Database::open(folder.path()).unwrap();
        assert_eq!(
            again.services().unwrap(),
            [kept("a", "{}", 2), kept("b", "second", 1)]
        );
        assert_eq!(again.setting("images").unwrap().as_deref(), Some("[]"));
        assert_eq!(again.setting("nothing").unwrap(), None);
        assert_eq!(again.make_setting("images", "{}").unwrap(), "[]");
        assert_eq!(again.make_setting("token", "x").unwrap(), "x");
        again.delete_service("a").unwrap();
        assert_eq!(database.services().unwrap(), [kept("b", "second", 1)]);
    }

    #[test]
    fn services_of_the_first_schema_are_as_old_as_their_migration() {
        let folder = tempfile::tempdir().unwrap();
        let old = Connection::open(folder.path().join(FILE)).unwrap();
        old.execute_batch(
            "create table services (name text primary key, definition text not null) strict, without rowid;
             create table settings (name text primary key, value text not null) strict, without rowid;
             insert into services values ('a', '{}');
             pragma user_version = 1;",
        )
        .unwrap();
        let before = OffsetDateTime::now_utc().unix_timestamp();
        for _ in 0..2 {
            let database = Database::open(folder.path()).unwrap();
            let services = database.services().unwrap();
            let created = services[0].created.unix_timestamp();
            assert!((before..before + 60).contains(&created), "{created}");
            assert_eq!(services, [kept("a", "{}", created)]);
        }
    }

    #[test]
    fn a_newer_schema_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path()).unwrap();
        let newer = database
            .connection
            .pragma_update(None, "user_version", SCHEMA + 1);
        newer.unwrap();
        let error = Database::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("schema 3"), "{error}");
    }
}
