//! The numbers of `/metrics`: their names, what they mean, and the one recorder that keeps them.

use std::sync::LazyLock;
use std::time::Duration;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing::warn;

/// Seconds, from what a chip costs to what a client bears.
const TIME_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 4.0, 16.0];
const BATCH_BUCKETS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Samples of histograms wait to be sorted into their buckets; without this they pile up while nobody asks for them.
const UPKEEP: Duration = Duration::from_secs(5);

/// The process has one recorder; `None` if it could not be installed, which is logged.
static RECORDER: LazyLock<Option<PrometheusHandle>> = LazyLock::new(|| match install() {
    Ok(handle) => Some(handle),
    Err(error) => {
        warn!(%error, "there will be no metrics");
        None
    }
});

fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &TIME_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full("faceid_batch_size".to_owned()), &BATCH_BUCKETS)?
        .install_recorder()?;
    describe_counter!("faceid_http_requests_total", "Requests that were answered, by route, method and status.");
    describe_histogram!("faceid_http_request_seconds", Unit::Seconds, "From a request's head to its answer, by route.");
    describe_gauge!("faceid_requests_in_work", "Recognition requests in work or waiting.");
    describe_counter!("faceid_rejected_total", "Requests refused because of overload, by where.");
    describe_counter!("faceid_limited_total", "Requests refused because a caller had what they may have, by kind.");
    describe_gauge!("faceid_queue_depth", "Photos, chips and queries that wait, by stage.");
    describe_histogram!("faceid_queue_wait_seconds", Unit::Seconds, "How long work waited, by stage.");
    describe_histogram!(
        "faceid_stage_seconds",
        Unit::Seconds,
        "How long a stage took; for networks and scans, a whole batch."
    );
    describe_histogram!("faceid_batch_size", "Images or chips in a pass, by network.");
    describe_counter!("faceid_dropped_total", "Work that was dropped before it began, by reason.");
    describe_counter!("faceid_faces_total", "Faces that were embedded; its rate is faces per second.");
    describe_gauge!("faceid_resident_templates", "Templates in memory; 0 while galleries are searched in PostgreSQL.");
    describe_gauge!("faceid_resident_age_seconds", Unit::Seconds, "Age of what is in memory; 0 if nothing is.");
    describe_counter!("faceid_stale_answers_total", "Identifications answered from memory that was not fresh.");
    describe_counter!("faceid_unnamed_answers_total", "Identifications without the nearest face of each subject.");
    describe_counter!("faceid_shadow_faces_total", "Faces that a candidate in the shadow was asked about, by outcome.");
    describe_gauge!("faceid_engine_info", "1, labelled with the device, precision and kernels in use.");
    describe_counter!("faceid_jobs_total", "Jobs that ended at this server, by kind and how they ended.");
    describe_counter!("faceid_audit_entries_total", "Entries that this server wrote to the audit, by kind.");
    describe_counter!(
        "faceid_audit_lost_total",
        "Answers that could not be noted, as the database was away for too long."
    );
    describe_gauge!("faceid_audit_unsealed", "Entries of the audit that have no place in the chain yet.");
    describe_counter!(
        "faceid_retention_erased_total",
        "Subjects and faces that had expired and were erased, by which."
    );
    describe_gauge!(
        "faceid_retention_swept_timestamp_seconds",
        Unit::Seconds,
        "When this server last found nothing more that has expired, as Unix time; absent while another one looks."
    );
    describe_gauge!(
        "faceid_chip_keys",
        "Keys of chips, by the master key that wraps them, where the job encrypt runs."
    );
    describe_gauge!("faceid_plain_chips", "Chips that are not encrypted yet, where the job encrypt runs.");
    describe_counter!("faceid_follow_failures_total", "Times that this server could not follow the active model.");
    describe_gauge!(
        "faceid_tls_certificate_expires_timestamp_seconds",
        Unit::Seconds,
        "When the certificate of the server expires."
    );
    describe_gauge!("faceid_async_tasks", "Tasks of the async runtime that are alive.");
    describe_gauge!("process_resident_memory_bytes", Unit::Bytes, "Resident memory of the server process.");
    Ok(handle)
}

/// Starts recording; what was recorded before is lost. Calls after the first do nothing.
pub fn start() {
    LazyLock::force(&RECORDER);
}

/// Keeps the recorder's memory bounded; never returns.
pub async fn upkeep() {
    let Some(recorder) = &*RECORDER else { return };
    let mut interval = tokio::time::interval(UPKEEP);
    loop {
        interval.tick().await;
        recorder.run_upkeep();
    }
}

/// All numbers in Prometheus's text format.
pub fn render() -> String {
    gauge!("faceid_async_tasks").set(tokio::runtime::Handle::current().metrics().num_alive_tasks() as f64);
    if let Some(bytes) = resident_bytes() {
        gauge!("process_resident_memory_bytes").set(bytes);
    }
    RECORDER.as_ref().map(PrometheusHandle::render).unwrap_or_default()
}

/// As Linux counts it.
fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}
