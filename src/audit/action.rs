//! What the record notes.

use std::fmt;

macro_rules! actions {
    ($($(#[$doc:meta])* $action:ident = $name:literal,)*) => {
        /// What was asked or changed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Action {
            $($(#[$doc])* $action,)*
        }

        impl Action {
            pub const ALL: &[Self] = &[$(Self::$action),*];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$action => $name,)*
                }
            }
        }
    };
}

actions! {
    Identify = "identify",
    IdentifyBatch = "identify.batch",
    IdentifyEmbedding = "identify.embedding",
    /// A subject or a face among the others.
    IdentifyStored = "identify.stored",
    Verify = "verify",
    /// With a subject or a face.
    VerifyStored = "verify.stored",
    Compare = "compare",
    FaceEnroll = "face.enroll",
    FacesImport = "faces.import",
    FaceMove = "face.move",
    FaceErase = "face.erase",
    SubjectCreate = "subject.create",
    SubjectChange = "subject.change",
    /// All that is held about somebody.
    SubjectExport = "subject.export",
    SubjectMerge = "subject.merge",
    SubjectErase = "subject.erase",
    GalleryCreate = "gallery.create",
    GalleryChange = "gallery.change",
    GalleryErase = "gallery.erase",
    GalleryExport = "gallery.export",
    KeyCreate = "key.create",
    KeyRotate = "key.rotate",
    KeyRevoke = "key.revoke",
    /// Known by embeddings alone.
    ModelRegister = "model.register",
    ModelImport = "model.import",
    ModelCalibrate = "model.calibrate",
    ModelEvaluate = "model.evaluate",
    ModelRetrain = "model.retrain",
    ModelActivate = "model.activate",
    ModelRetire = "model.retire",
    PromotionStart = "promotion.start",
    PromotionEnd = "promotion.end",
    ShadowPrepare = "shadow.prepare",
    ShadowStart = "shadow.start",
    ShadowEnd = "shadow.end",
    JobSubmit = "job.submit",
    JobCancel = "job.cancel",
    JobEnd = "job.end",
    /// Entries about answers that could not be kept.
    AuditLost = "audit.lost",
    /// Old entries were dropped.
    AuditExpire = "audit.expire",
}

impl Action {
    /// Whether it asks who somebody is: nothing is changed by it.
    pub fn is_question(self) -> bool {
        matches!(
            self,
            Self::Identify
                | Self::IdentifyBatch
                | Self::IdentifyEmbedding
                | Self::IdentifyStored
                | Self::Verify
                | Self::VerifyStored
                | Self::Compare
        )
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
