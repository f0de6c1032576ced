//! The documented routes, grouped by what they need of whoever calls them.

use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::state::AppState;
use super::{
    audit, batch, compare, datasets, deletions, detect, enroll, erasures, faces, findings, galleries, health, identify,
    jobs, keys, metrics, models, person, quarantine, retrain, shadow, stored, subjects, verify,
};
use crate::types::Permission;

/// Says in the document what an operation needs.
pub const PERMISSION: &str = "x-permission";

/// Routes that need the same.
pub struct Group {
    pub needed: Permission,
    pub routes: OpenApiRouter<AppState>,
}

impl Group {
    fn new(needed: Permission, mut routes: OpenApiRouter<AppState>) -> Self {
        for operation in routes.get_openapi_mut().paths.paths.values_mut().flat_map(operations) {
            let extensions = operation.extensions.get_or_insert_with(Extensions::default);
            extensions.insert(PERMISSION.to_owned(), needed.as_str().into());
        }
        Self { needed, routes }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete].into_iter().flatten()
}

/// Routes that are answered in time.
pub fn groups() -> [Group; 9] {
    [
        Group::new(Permission::Enter, OpenApiRouter::new().routes(routes!(health::info))),
        Group::new(Permission::Ask, asking()),
        Group::new(Permission::Look, looking()),
        Group::new(Permission::Change, changing()),
        Group::new(
            Permission::Manage,
            OpenApiRouter::new().routes(routes!(galleries::change_gallery, galleries::delete_gallery)),
        ),
        Group::new(Permission::Create, OpenApiRouter::new().routes(routes!(galleries::create_gallery))),
        Group::new(Permission::Monitor, OpenApiRouter::new().routes(routes!(metrics::show_metrics))),
        Group::new(Permission::Administer, administering()),
        Group::new(Permission::Own, owning()),
    ]
}

/// What arrives for as long as it keeps coming.
pub fn uploads() -> [Group; 2] {
    [
        Group::new(Permission::Administer, OpenApiRouter::new().routes(routes!(datasets::upload_dataset))),
        Group::new(Permission::Own, OpenApiRouter::new().routes(routes!(models::import_model))),
    ]
}

/// What everybody may ask.
pub fn open() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(health::version))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
}

fn asking() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(identify::identify_faces))
        .routes(routes!(identify::identify_embedding))
        .routes(routes!(batch::identify_batch))
        .routes(routes!(batch::embed_batch))
        .routes(routes!(verify::verify_pair))
        .routes(routes!(compare::compare_candidates))
        .routes(routes!(stored::verify_subject))
        .routes(routes!(stored::verify_face))
        .routes(routes!(stored::identify_subject))
        .routes(routes!(stored::identify_face))
        .routes(routes!(detect::detect_faces))
        .routes(routes!(detect::embed_faces))
}

fn looking() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(galleries::list_galleries))
        .routes(routes!(galleries::get_gallery))
        .routes(routes!(subjects::list_subjects))
        .routes(routes!(subjects::get_subject))
        .routes(routes!(person::export_person))
        .routes(routes!(subjects::list_subject_faces))
        .routes(routes!(faces::list_faces))
        .routes(routes!(faces::get_face))
        .routes(routes!(faces::get_chip))
        .routes(routes!(findings::list_duplicates))
        .routes(routes!(findings::list_anomalies))
}

fn changing() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(enroll::enroll_face))
        .routes(routes!(subjects::create_subject))
        .routes(routes!(subjects::change_subject, subjects::delete_subject))
        .routes(routes!(subjects::merge_subjects))
        .routes(routes!(faces::delete_face))
        .routes(routes!(faces::move_face))
        .routes(routes!(deletions::delete_subjects))
        .routes(routes!(deletions::delete_faces))
        .routes(routes!(erasures::list_erasures))
        .routes(routes!(erasures::get_erasure))
}

fn administering() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(keys::create_key, keys::list_keys))
        .routes(routes!(keys::get_key, keys::revoke_key))
        .routes(routes!(keys::rotate_key))
        .routes(routes!(jobs::list_jobs))
        .routes(routes!(jobs::get_job))
        .routes(routes!(jobs::follow_job))
        .routes(routes!(jobs::cancel_job))
}

fn owning() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(models::list_models))
        .routes(routes!(models::get_model))
        .routes(routes!(models::evaluate_model))
        .routes(routes!(models::promote_model))
        .routes(routes!(models::retire_model))
        .routes(routes!(models::roll_back))
        .routes(routes!(shadow::begin_shadow, shadow::get_shadow, shadow::end_shadow))
        .routes(routes!(shadow::list_disagreements))
        .routes(routes!(audit::list_audit))
        .routes(routes!(audit::get_audit_head))
        .routes(routes!(retrain::start_retrain))
        .routes(routes!(quarantine::list_set_aside))
        .routes(routes!(quarantine::retry_set_aside))
}
