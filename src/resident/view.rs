//! Templates and galleries as they are in memory.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use crate::engine::Device;
use crate::gallery::{Changes, Gallery, Template};
use crate::index::{DeviceSearch, Index};
use crate::types::{GalleryId, SubjectId};

/// What is in memory.
pub struct View {
    pub index: Arc<Index>,
    directory: RwLock<Directory>,
    /// Held while something is put in, so that it is put in before it is deleted or not at all.
    deleted: RwLock<Deleted>,
}

/// What this server deleted since the round under way began: what that reads may be older.
#[derive(Default)]
struct Deleted {
    galleries: HashSet<GalleryId>,
    subjects: HashSet<SubjectId>,
}

#[derive(Default)]
struct Directory {
    galleries: HashMap<GalleryId, Gallery>,
    names: HashMap<String, GalleryId>,
}

impl Directory {
    fn put(&mut self, gallery: Gallery) {
        self.remove(gallery.id);
        self.names.insert(gallery.name.clone(), gallery.id);
        self.galleries.insert(gallery.id, gallery);
    }

    fn remove(&mut self, id: GalleryId) {
        if let Some(former) = self.galleries.remove(&id)
            && self.names.get(&former.name) == Some(&id)
        {
            self.names.remove(&former.name);
        }
    }
}

impl View {
    pub(super) fn new(dimension: usize, device: Option<Device>) -> Self {
        let index = Arc::new(Index::new(dimension, device.map(DeviceSearch::new)));
        Self { index, directory: RwLock::default(), deleted: RwLock::default() }
    }

    /// A gallery given by id or name; the id wins.
    pub fn gallery(&self, gallery: &str) -> Option<Gallery> {
        let directory = self.directory.read().unwrap_or_else(PoisonError::into_inner);
        let id = uuid::Uuid::try_parse(gallery).ok().map(GalleryId).filter(|id| directory.galleries.contains_key(id));
        directory.galleries.get(&id.or_else(|| directory.names.get(gallery).copied())?).cloned()
    }

    /// Called before anything of a round or of a load is read: that is no older than what was deleted until now.
    pub(super) fn begin(&self) {
        *self.deleted.write().unwrap_or_else(PoisonError::into_inner) = Deleted::default();
    }

    pub(super) fn put_gallery(&self, gallery: Gallery) {
        let deleted = self.deleted.read().unwrap_or_else(PoisonError::into_inner);
        if !deleted.galleries.contains(&gallery.id) {
            self.directory.write().unwrap_or_else(PoisonError::into_inner).put(gallery);
        }
    }

    pub(super) fn put_template(&self, template: Template) {
        let deleted = self.deleted.read().unwrap_or_else(PoisonError::into_inner);
        let is_deleted =
            deleted.galleries.contains(&template.gallery) || deleted.subjects.contains(&template.about.subject_id);
        if !is_deleted {
            self.index.put(template.gallery, template.about, &template.embedding);
        }
    }

    pub(super) fn apply(&self, changes: Changes) {
        changes.galleries_gone.into_iter().for_each(|gallery| self.remove_gallery(gallery));
        changes.galleries.into_iter().for_each(|gallery| self.put_gallery(gallery));
        changes.gone.into_iter().for_each(|(gallery, subject)| self.index.remove(gallery, subject));
        changes.templates.into_iter().for_each(|template| self.put_template(template));
    }

    pub(super) fn forget_gallery(&self, gallery: GalleryId) {
        self.deleted.write().unwrap_or_else(PoisonError::into_inner).galleries.insert(gallery);
        self.remove_gallery(gallery);
    }

    pub(super) fn forget_subject(&self, gallery: GalleryId, subject: SubjectId) {
        self.deleted.write().unwrap_or_else(PoisonError::into_inner).subjects.insert(subject);
        self.index.remove(gallery, subject);
    }

    fn remove_gallery(&self, gallery: GalleryId) {
        self.directory.write().unwrap_or_else(PoisonError::into_inner).remove(gallery);
        self.index.remove_gallery(gallery);
    }
}
