//! Which faces are there already: asked before the work on many is begun.

use std::collections::HashMap;

use uuid::Uuid;

use super::super::{Galleries, GalleryError};
use crate::types::{FaceId, GalleryId};

impl Galleries {
    /// Those of some faces that are there, with the id and the name of the gallery that each is in.
    pub async fn owners_of_faces(
        &self,
        faces: &[FaceId],
    ) -> Result<HashMap<FaceId, (GalleryId, String)>, GalleryError> {
        let ids: Vec<Uuid> = faces.iter().map(|face| face.0).collect();
        let rows: Vec<(Uuid, Uuid, String)> = sqlx::query_as(
            "select f.id, f.gallery_id, g.name from present_faces f join galleries g on g.id = f.gallery_id \
             where f.id = any($1) and ($2::uuid[] is null or f.gallery_id = any($2))",
        )
        .bind(ids)
        .bind(self.scope())
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|(face, gallery, name)| (FaceId(face), (GalleryId(gallery), name))).collect())
    }
}
