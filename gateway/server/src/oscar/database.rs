//! What has to be there after a crash at any moment: definitions of services, and settings.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use rusqlite::{Connection, OptionalExtension as _};

/// Name of the file in the data directory.
const FILE: &str = "services.db";

/// Version of its tables. A newer one is not touched.
const SCHEMA: i64 = 1;

/// The database of a gateway, which has it alone (`--data` is locked).
#[derive(Debug)]
pub(crate) struct Database {
    connection: Connection,
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
        connection.execute_batch(&format!(
            "begin;
             create table if not exists services (
                 name text primary key,
                 definition text not null
             ) strict, without rowid;
             create table if not exists settings (
                 name text primary key,
                 value text not null
             ) strict, without rowid;
             pragma user_version = {SCHEMA};
             commit;"
        ))?;
        Ok(Self { connection })
    }

    /// Returns the definitions of all services, by name. Blocks.
    pub(crate) fn services(&self) -> rusqlite::Result<Vec<(String, String)>> {
        let mut select = self
            .connection
            .prepare("select name, definition from services order by name")?;
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect()
    }

    /// Keeps a service's definition, in the place of one that was there. Blocks for the disk.
    pub(crate) fn put_service(&self, name: &str, definition: &str) -> rusqlite::Result<()> {
        let sql = "insert into services values (?1, ?2)
                   on conflict (name) do update set definition = excluded.definition";
        self.connection.execute(sql, [name, definition]).map(drop)
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

    #[test]
    fn what_was_kept_is_there_when_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path()).unwrap();
        database.put_service("b", "first").unwrap();
        database.put_service("a", "{}").unwrap();
        database.put_service("b", "second").unwrap();
        database.put_setting("images", "[]").unwrap();
        // Not closed: what is written is not waiting for that.
        let again = Database::open(folder.path()).unwrap();
        let pair = |name: &str, definition: &str| (name.to_owned(), definition.to_owned());
        assert_eq!(
            again.services().unwrap(),
            [pair("a", "{}"), pair("b", "second")]
        );
        assert_eq!(again.setting("images").unwrap().as_deref(), Some("[]"));
        assert_eq!(again.setting("nothing").unwrap(), None);
        again.delete_service("a").unwrap();
        assert_eq!(database.services().unwrap(), [pair("b", "second")]);
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
        assert!(error.to_string().contains("schema 2"), "{error}");
    }
}
