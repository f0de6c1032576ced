//! Headers of requests and answers, which follow from the failures that an operation names and from the statuses that it answers with.

use serde_json::{Value, json};

use super::spread::Object;
use crate::http::problem::Code;

/// Adds the headers of an operation, and the failures that come with them.
pub fn add(operation: &mut Object, codes: &mut Vec<Code>) {
    let what = match operation.get("tags").and_then(|tags| tags[0].as_str()) {
        Some("galleries") => "gallery",
        _ => "subject",
    };
    if codes.contains(&Code::IdempotencyKeyReused) {
        let description = "Sent again with the same key within 24 hours, the same request is not carried out again, at whichever \
            server, and gets the same answer, with `idempotency-replayed: true`. The key with another request is refused.";
        let schema = json!({"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"});
        add_parameter(operation, "Idempotency-Key", description, schema);
        say_replayed(operation);
    }
    if codes.contains(&Code::PreconditionFailed) {
        let description = format!("Only if the {what} has this `ETag` up to its dash, or one of a list");
        add_parameter(operation, "If-Match", &description, json!({"type": "string"}));
        codes.push(Code::MalformedPrecondition);
    }
    if operation.get("responses").is_some_and(|answers| answers.get("304").is_some()) {
        let description = format!("Not if the {what} has this whole `ETag`, or one of a list");
        add_parameter(operation, "If-None-Match", &description, json!({"type": "string"}));
        codes.push(Code::MalformedPrecondition);
    }
}

fn add_parameter(operation: &mut Object, name: &str, description: &str, schema: Value) {
    let parameter =
        json!({"name": name, "in": "header", "required": false, "description": description, "schema": schema});
    if let Some(parameters) = operation.entry("parameters").or_insert_with(|| json!([])).as_array_mut() {
        parameters.push(parameter);
    }
}

/// Answers to callers who are limited say what is left. All do; it is written where somebody looks for it.
pub fn say_limits(operation: &mut Object) {
    let Some(answers) = operation.get_mut("responses").and_then(Value::as_object_mut) else { return };
    for (status, answer) in answers.iter_mut().filter(|(status, _)| status.starts_with('2') || *status == "429") {
        answer["headers"]["ratelimit-policy"] = json!({
            "description": "The limits of the caller, if there are any, as draft-ietf-httpapi-ratelimit-headers-10 writes them",
            "schema": {"type": "string"},
        });
        answer["headers"]["ratelimit"] = json!({
            "description": "What is left of them, and in how many seconds there is more",
            "schema": {"type": "string"},
        });
        if status == "429" {
            answer["headers"]["retry-after"] = json!({
                "description": "In how many seconds to try again",
                "schema": {"type": "integer", "minimum": 1},
            });
        }
    }
}

/// Every answer that is kept says when it comes again.
fn say_replayed(operation: &mut Object) {
    let Some(answers) = operation.get_mut("responses").and_then(Value::as_object_mut) else { return };
    for (_, answer) in answers.iter_mut().filter(|(status, _)| status.starts_with('2')) {
        answer["headers"]["idempotency-replayed"] = json!({
            "description": "That this answer was given before; else it is not there",
            "schema": {"type": "string", "enum": ["true"]},
        });
    }
}
