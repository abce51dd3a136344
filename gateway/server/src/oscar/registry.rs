//! All services: an index in memory, in front of what is on the disk.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use gateway_oscar::{Secret, Service as Definition};
use gateway_scheduler::RevisionId;
use time::OffsetDateTime;
use workers_protocol::{Code, InferError};

use super::database::Database;
use super::folder::check_loops;
use super::random;
use super::service::{Backend, ModelService, Service};
use crate::auth::{self, Tokens};
use crate::catalog::{self, Catalog};
use crate::dispatcher::Dispatcher;
use crate::revision::Revision;

/// Services of a gateway at most.
const MAX_SERVICES: usize = 10_000;

/// Who owns what the administrator creates, and nobody else can yet.
const OWNER: &str = "cluster_admin";

/// Name of the setting with the images that services may have.
const IMAGES: &str = "allowed_image_repositories";

/// Name of the setting with the token of those who announce objects.
const EVENTS_TOKEN: &str = "events_token";

/// The services of a gateway.
#[derive(Debug)]
pub(crate) struct Services {
    catalog: Arc<Catalog>,
    dispatcher: Arc<Dispatcher>,
    /// Locked for a whole change, so that what was checked holds until it is written.
    database: Mutex<Database>,
    index: RwLock<BTreeMap<String, Arc<Service>>>,
    /// What images have to contain one of; none for any image.
    images: RwLock<Vec<String>>,
    /// Held where a service comes or goes, with its jobs: those of one are not taken for another's of
    /// its name.
    pub(crate) comings: tokio::sync::Mutex<()>,
}

impl Services {
    /// Opens those of a data directory. Blocks.
    ///
    /// # Errors
    /// When the database can't be read; a sentence.
    pub(crate) fn open(
        data: &Path,
        catalog: Arc<Catalog>,
        dispatcher: Arc<Dispatcher>,
    ) -> anyhow::Result<Arc<Self>> {
        let database = Database::open(data)?;
        let mut index = BTreeMap::new();
        for kept in database.services()? {
            let definition = Definition::from_json(kept.definition.as_bytes())
                .map_err(|error| InferError::internal(error.to_string()));
            let service = definition
                .and_then(|definition| Service::new(definition, kept.created, Arc::default()));
            match service {
                Ok(service) => drop(index.insert(kept.name, Arc::new(service))),
                // It stays where it is, for a hearth that can.
                Err(error) => {
                    tracing::error!(service = kept.name, %error, "a service can't be served");
                }
            }
        }
        let images = database.setting(IMAGES)?;
        let images = images.map_or(Ok(Vec::new()), |images| serde_json::from_str(&images))?;
        Ok(Arc::new(Self {
            catalog,
            dispatcher,
            database: Mutex::new(database),
            index: RwLock::new(index),
            images: RwLock::new(images),
            comings: tokio::sync::Mutex::default(),
        }))
    }

    /// Returns a service. No lock is held for long, and no disk is asked.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Service>> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.get(name).cloned()
    }

    /// Returns all services, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Service>> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.values().cloned().collect()
    }

    /// Returns the services that an object is an event of.
    pub(crate) fn called_by(&self, provider: &str, bucket: &str, key: &str) -> Vec<Arc<Service>> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let services = index.values();
        let called = services.filter(|service| service.is_called_by(provider, bucket, key));
        called.cloned().collect()
    }

    /// Takes in a new service, with a token of its own, and returns it. Blocks for the disk.
    ///
    /// # Errors
    /// `InvalidArgument` of a definition that can't be; `AlreadyExists`; `PermissionDenied` where
    /// there are too many.
    pub(crate) fn create(
        &self,
        mut definition: Definition,
        scripts: Result<(), InferError>,
    ) -> Result<Arc<Service>, InferError> {
        self.check(&mut definition, scripts)?;
        let database = self.changing();
        let n_services = {
            let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
            if index.contains_key(&definition.name) {
                return Err(InferError::new(
                    Code::AlreadyExists,
                    "A service with the provided name already exists",
                ));
            }
            index.len()
        };
        if n_services >= MAX_SERVICES {
            let message =
                format!("there are {n_services} services, expected at most {MAX_SERVICES}");
            return Err(InferError::new(Code::PermissionDenied, message));
        }
        definition.token = Secret::from(random::hex::<32>()?);
        OWNER.clone_into(&mut definition.owner);
        // In whole seconds, as objects have them.
        let created = OffsetDateTime::now_utc();
        let created = created.replace_nanosecond(0).unwrap_or(created);
        let service = Service::new(definition, created, Arc::default())?;
        self.put(&database, service)
    }

    /// Puts a definition in the place of the one of its name, whose token, owner and secrets that
    /// are not said again it keeps, and returns the service. Blocks for the disk.
    ///
    /// # Errors
    /// `InvalidArgument` of a definition that can't be; `NotFound`.
    pub(crate) fn update(
        &self,
        mut definition: Definition,
        scripts: Result<(), InferError>,
    ) -> Result<Arc<Service>, InferError> {
        self.check(&mut definition, scripts)?;
        let database = self.changing();
        let before = self.find(&definition.name)?;
        let kept = &before.definition;
        if kept.volume != definition.volume {
            return Err(InferError::invalid(
                "`volume` can't be changed: delete the service and create it anew",
            ));
        }
        definition.token = kept.token.clone();
        definition.owner.clone_from(&kept.owner);
        definition.namespace.clone_from(&kept.namespace);
        // Whoever sends back what was read sends secrets empty.
        for (name, secret) in &mut definition.environment.secrets {
            if secret.is_empty()
                && let Some(before) = kept.environment.secrets.get(name)
            {
                secret.clone_from(before);
            }
        }
        let service = Service::new(definition, before.created, Arc::clone(&before.usage))?;
        self.put(&database, service)
    }

    /// Forgets a service. Blocks for the disk.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) fn delete(&self, name: &str) -> Result<(), InferError> {
        let database = self.changing();
        self.find(name)?;
        database
            .delete_service(name)
            .map_err(|error| lost(&error))?;
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.remove(name);
        drop(index);
        self.fit();
        Ok(())
    }

    /// Returns a service.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Service>, InferError> {
        self.get(name).ok_or_else(|| {
            let name: String = name.chars().take(64).collect();
            InferError::new(Code::NotFound, format!("no service `{name}`"))
        })
    }

    /// Returns what images have to contain one of.
    pub(crate) fn images(&self) -> Vec<String> {
        let images = self.images.read().unwrap_or_else(PoisonError::into_inner);
        images.clone()
    }

    /// Says what images have to contain one of, from now on. Blocks for the disk.
    ///
    /// # Errors
    /// `Internal` when it can't be kept.
    pub(crate) fn set_images(&self, images: Vec<String>) -> Result<(), InferError> {
        let database = self.changing();
        let json = serde_json::to_string(&images).unwrap_or_default();
        database
            .put_setting(IMAGES, &json)
            .map_err(|error| lost(&error))?;
        *self.images.write().unwrap_or_else(PoisonError::into_inner) = images;
        Ok(())
    }

    /// Returns the revision that a model of a service is now.
    ///
    /// # Errors
    /// `Unavailable` while it is not there.
    pub(crate) fn revision(
        &self,
        service: &Service,
        model: &ModelService,
    ) -> Result<Arc<Revision>, InferError> {
        self.catalog.find_reference(&model.model).map_err(|error| {
            let message = format!("service `{}`: {}", service.name(), error.message);
            InferError::new(Code::Unavailable, message)
        })
    }

    /// Follows the models: has them scaled as their services say whenever they have changed.
    pub(crate) async fn follow_models(self: Arc<Self>) {
        let mut changed = self.catalog.changed();
        loop {
            let this = Arc::clone(&self);
            // A panic in there has said so.
            let _ = tokio::task::spawn_blocking(move || {
                let _changing = this.changing();
                this.fit();
            })
            .await;
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Has every revision scaled as its model's manifest and its services say: by the maxima. Called
    /// while the database is locked, so that the last change is the last to be heeded.
    fn fit(&self) {
        let revisions = self.catalog.revisions();
        let mut scales: HashMap<RevisionId, (usize, usize)> = revisions
            .iter()
            .map(|revision| (revision.id, catalog::scale(&revision.model.manifest)))
            .collect();
        for service in self.all() {
            let Backend::Model(model) = &service.backend else {
                continue;
            };
            let Ok(revision) = self.revision(&service, model) else {
                continue;
            };
            let (min, max) = service.scale();
            let scale = scales.entry(revision.id).or_default();
            *scale = (scale.0.max(min), scale.1.max(max).max(min));
        }
        for (revision, (min, max)) in scales {
            self.dispatcher.set_scale(revision, min, max);
        }
    }

    /// Checks a definition, and puts in its defaults. A script needs a place where scripts can run.
    fn check(
        &self,
        definition: &mut Definition,
        scripts: Result<(), InferError>,
    ) -> Result<(), InferError> {
        definition.set_defaults();
        definition
            .check()
            .map_err(|error| InferError::invalid(error.to_string()))?;
        let images = self.images();
        let is_model = definition.kind() == gateway_oscar::Kind::Model;
        if !is_model
            && !images.is_empty()
            && !images
                .iter()
                .any(|allowed| definition.image.contains(allowed))
        {
            return Err(InferError::invalid(format!(
                "`image`: expected one of {}, got {:?}",
                images.join(", "),
                definition.image
            )));
        }
        let backend = Backend::of(definition)?;
        if let Backend::Script(_) = &backend {
            scripts?;
        }
        // One that can't be served just now may be later, and says so to who calls.
        if let Backend::Model(model) = &backend
            && let Err(error) = self.catalog.find_reference(&model.model)
            && error.code == Code::NotFound
        {
            return Err(InferError::invalid(format!("`image`: {}", error.message)));
        }
        Ok(())
    }

    /// Keeps a service on the disk, and then in the index, unless it would call itself for ever.
    fn put(&self, database: &Database, service: Service) -> Result<Arc<Service>, InferError> {
        let others = self.all();
        let definitions = others.iter().map(|other| &other.definition);
        check_loops(&service.definition, definitions)?;
        let name = service.name().to_owned();
        database
            .put_service(&name, &service.definition.to_json(), service.created)
            .map_err(|error| lost(&error))?;
        let service = Arc::new(service);
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.insert(name, Arc::clone(&service));
        drop(index);
        self.fit();
        Ok(service)
    }

    fn changing(&self) -> MutexGuard<'_, Database> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tokens for Services {
    fn token(&self, service: &str) -> Option<auth::Secret> {
        let service = self.get(service)?;
        let token = service.definition.token.reveal();
        Some(token.to_owned().into())
    }
}

/// Returns the token of those who announce objects, of a data directory that a gateway may be using:
/// made up, and kept, by who asks first. Blocks for the disk.
///
/// # Errors
/// When it can't be kept.
pub(crate) fn events_token(data: &Path) -> anyhow::Result<auth::Secret> {
    let made = random::hex::<32>()?;
    let token = Database::open(data)?.make_setting(EVENTS_TOKEN, &made)?;
    Ok(token.into())
}

fn lost(error: &rusqlite::Error) -> InferError {
    InferError::internal(format!("the change can't be kept: {error}"))
}
