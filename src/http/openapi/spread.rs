//! Says of each operation how its request may come. A handler names the one type that its request is read into; where that type's
//! fields may be (a form, JSON, the query string), what files are in each, and which failures are common to all routes follows from
//! how `form.rs` reads.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::headers;
use crate::http::health::is_probe;
use crate::http::problem::Code;
use crate::http::routes::PERMISSION;
use crate::types::Permission;

const SCHEMAS: &str = "#/components/schemas/";

/// A file that a request holds.
const FILE: &str = "#/components/schemas/FileBytes";

pub type Object = Map<String, Value>;

/// Spreads the request of every operation over the ways in which it may come, and adds the failures.
pub fn spread(mut document: Value) -> Result<Value, serde_json::Error> {
    let mut schemas: Object = serde_json::from_value(document["components"]["schemas"].take())?;
    name_items(&mut schemas);
    schemas.values_mut().for_each(open_objects);
    // Several operations may read the same type.
    let collected = schemas.clone();
    let examples: BTreeMap<String, Examples> = serde_json::from_str(EXAMPLES)?;
    let mut paths: BTreeMap<String, BTreeMap<String, Object>> = serde_json::from_value(document["paths"].take())?;
    for (path, operations) in &mut paths {
        for (method, operation) in operations {
            let request = Request::take(operation, path, &collected)?;
            let mut codes = codes(operation, path, &request)?;
            headers::add(operation, &mut codes);
            if method != "get" {
                // Pages of other origins change nothing at a server without keys.
                codes.push(Code::Forbidden);
                if operation.get(PERMISSION).is_some_and(|needed| needed != Permission::Ask.as_str()) {
                    // A condition that nobody would look at.
                    codes.push(Code::PreconditionFailed);
                }
            }
            add_failures(operation, &codes);
            if !is_probe(path) {
                headers::say_limits(operation);
            }
            request.put(operation, method, &mut schemas);
            show_examples(operation, &examples);
        }
    }
    document["paths"] = serde_json::to_value(paths)?;
    document["components"]["schemas"] = Value::Object(Object::new());
    let used = used(&document, &schemas);
    schemas.retain(|name, _| used.contains(name));
    document["components"]["schemas"] = Value::Object(schemas);
    Ok(document)
}

/// What an operation reads.
#[derive(Default)]
struct Request {
    /// Of its type.
    name: String,
    schema: Object,
    fields: Object,
    required: Vec<String>,
    files: Vec<String>,
    /// A field that says where what the path names is, rather than what to do with it.
    address: Option<&'static str>,
    /// The media type of a file that is stored as it arrives.
    streamed: Option<String>,
}

impl Request {
    fn take(operation: &mut Object, path: &str, schemas: &Object) -> Result<Self, serde_json::Error> {
        let Some(body) = operation.remove("requestBody") else { return Ok(Self::default()) };
        let reference = body["content"]["application/json"]["schema"]["$ref"].as_str().unwrap_or_default();
        let name = reference.trim_start_matches(SCHEMAS).to_owned();
        let mut schema: Object = serde_json::from_value(schemas.get(&name).cloned().unwrap_or_default())?;
        let mut fields: Object = serde_json::from_value(schema.remove("properties").unwrap_or_default())?;
        fields.values_mut().for_each(|field| {
            never_null(field);
            write_out(field, schemas);
        });
        let required = schema.remove("required").map(serde_json::from_value).transpose()?.unwrap_or_default();
        let streamed = operation.remove("x-streamed").and_then(|media| media.as_str().map(str::to_owned));
        let mut files: Vec<String> =
            fields.iter().filter(|(_, field)| is_file(field)).map(|(name, _)| name.clone()).collect();
        if streamed.is_some() {
            fields.insert("file".to_owned(), json!({"$ref": FILE, "description": "The file."}));
            files.push("file".to_owned());
        }
        let address = ["/subjects/{", "/faces/{"].iter().any(|place| path.starts_with(place)).then_some("gallery");
        Ok(Self { name, schema, fields, required, files, address, streamed })
    }

    /// Whether a field may be in the query string.
    fn in_query(&self, method: &str, field: &str) -> bool {
        let all = matches!(method, "get" | "delete") || !self.files.is_empty();
        !self.files.iter().any(|file| file == field) && (all || self.address == Some(field))
    }

    /// The file that may be the body.
    fn raw_file(&self) -> Option<&String> {
        self.files.first().filter(|file| self.files.len() == 1 && self.fields[*file].get("items").is_none())
    }

    fn put(self, operation: &mut Object, method: &str, schemas: &mut Object) {
        let parameters = self.fields.iter().filter(|(name, _)| self.in_query(method, name)).map(|(name, field)| {
            // Of a body that is no raw file it may be a member.
            let required = self.files.is_empty() && self.required.contains(name);
            parameter(name, field, required)
        });
        let parameters: Vec<Value> = parameters.collect();
        if !parameters.is_empty()
            && let Some(list) = operation.entry("parameters").or_insert_with(|| json!([])).as_array_mut()
        {
            list.extend(parameters);
        }
        let members: Vec<&String> = self.fields.keys().filter(|name| self.address != Some(name.as_str())).collect();
        if matches!(method, "get" | "delete") || members.is_empty() {
            return;
        }
        let mut content = Object::new();
        if self.streamed.is_none() {
            schemas
                .insert(self.name.clone(), self.body(&members, json!({"type": "string", "contentEncoding": "base64"})));
            content
                .insert("application/json".to_owned(), json!({"schema": {"$ref": format!("{SCHEMAS}{}", self.name)}}));
        }
        // Without a file JSON says it all; a form is read as well, but generators of clients stumble over the choice.
        if !self.files.is_empty() {
            let form = format!("{}Form", self.name);
            schemas.insert(form.clone(), self.body(&members, json!({"type": "string", "format": "binary"})));
            content.insert("multipart/form-data".to_owned(), json!({"schema": {"$ref": format!("{SCHEMAS}{form}")}}));
        }
        if let Some(file) = self.raw_file() {
            let raw = json!({"schema": {"type": "string", "format": "binary"}});
            let image = (file == "image").then_some("image/*");
            for media in self.streamed.as_deref().into_iter().chain(image).chain(["application/octet-stream"]) {
                content.insert(media.to_owned(), raw.clone());
            }
        }
        let required = members.iter().any(|name| self.required.contains(name)) || !self.files.is_empty();
        operation.insert("requestBody".to_owned(), json!({"content": content, "required": required}));
    }

    /// The schema of a body, whose files are as `file` says.
    fn body(&self, members: &[&String], file: Value) -> Value {
        let fields = members.iter().map(|name| {
            let mut field = self.fields[*name].clone();
            say_default(&mut field);
            if is_file(&field) {
                let several = field.get("items").is_some();
                let place = if several { &mut field["items"] } else { &mut field };
                if let (Some(object), Some(file)) = (place.as_object_mut(), file.as_object()) {
                    object.remove("$ref");
                    object.extend(file.clone());
                }
            }
            ((*name).clone(), field)
        });
        let fields: Object = fields.collect();
        let streamed = self.streamed.iter().map(|_| "file".to_owned());
        let required: Vec<String> =
            self.required.iter().filter(|name| members.contains(name)).cloned().chain(streamed).collect();
        let mut schema = self.schema.clone();
        schema.insert("properties".to_owned(), Value::Object(fields));
        if !required.is_empty() {
            schema.insert("required".to_owned(), json!(required));
        }
        // A field that no route knows is refused.
        schema.insert("additionalProperties".to_owned(), json!(false));
        Value::Object(schema)
    }
}

/// Whether a field is a file, or a list of them.
fn is_file(field: &Value) -> bool {
    field["$ref"] == FILE || field["items"]["$ref"] == FILE
}

/// The name of the schema that something refers to.
fn reference(schema: &Value) -> &str {
    schema["$ref"].as_str().unwrap_or_default().trim_start_matches(SCHEMAS)
}

fn parameter(name: &str, field: &Value, required: bool) -> Value {
    let mut schema = field.clone();
    let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
    let mut parameter = json!({"name": name, "in": "query", "required": required, "schema": schema});
    if let (Some(description), Some(parameter)) = (description, parameter.as_object_mut()) {
        parameter.insert("description".to_owned(), description);
    }
    // An object is one text.
    if reference(field) == "Metadata" || field["type"] == "object" {
        parameter["content"] = json!({"application/json": {"schema": parameter["schema"].take()}});
        parameter.as_object_mut().map(|parameter| parameter.remove("schema"));
    }
    parameter
}

/// Says in words what a field of a body is if it is not given: generators of types take one with a default for one that is always
/// there.
fn say_default(field: &mut Value) {
    let Some(field) = field.as_object_mut() else { return };
    let Some(default) = field.remove("default") else { return };
    let text = field.get("description").and_then(Value::as_str).unwrap_or_default();
    let default = default.as_str().map_or_else(|| default.to_string(), str::to_owned);
    field.insert("description".to_owned(), format!("{text} Defaults to `{default}`.").into());
}

/// An object whose members nobody names may have any.
fn open_objects(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(open_objects),
        Value::Object(object) => {
            let is_object = object.get("type").is_some_and(|kind| kind == "object");
            if is_object && !object.contains_key("properties") {
                object.entry("additionalProperties").or_insert(json!(true));
            }
            object.values_mut().for_each(open_objects);
        }
        _ => {}
    }
}

/// Null is not needed where a field can be left out.
fn never_null(field: &mut Value) {
    let Some(object) = field.as_object_mut() else { return };
    if let Some(Value::Array(types)) = object.get("type") {
        let rest: Vec<Value> = types.iter().filter(|kind| *kind != "null").cloned().collect();
        if let [kind] = rest.as_slice() {
            object.insert("type".to_owned(), kind.clone());
        }
    }
    for choice in ["oneOf", "anyOf", "allOf"] {
        if let Some(Value::Array(choices)) = object.get(choice) {
            let rest: Vec<Value> = choices.iter().filter(|one| one["type"] != "null").cloned().collect();
            if let [Value::Object(only)] = rest.as_slice() {
                let only = only.clone();
                object.remove(choice);
                // What is said of the field is more than what is said of its type.
                only.into_iter().for_each(|(key, value)| _ = object.entry(key).or_insert(value));
            }
        }
    }
}

/// Writes a number or a text out where it is asked for, so that what is said of the field is not lost behind what is said of its type.
fn write_out(field: &mut Value, schemas: &Object) {
    let Some(plain) = schemas.get(reference(field)).and_then(Value::as_object) else { return };
    let is_plain =
        ["string", "integer", "number", "array"].iter().any(|kind| plain.get("type").is_some_and(|of| of == kind));
    if let (true, false, Some(field)) =
        (is_plain, plain.contains_key("enum") || reference(field) == "FileBytes", field.as_object_mut())
    {
        field.remove("$ref");
        plain.iter().for_each(|(key, value)| _ = field.entry(key).or_insert_with(|| value.clone()));
    }
}

/// The codes of the failures that an operation may answer with.
fn codes(operation: &mut Object, path: &str, request: &Request) -> Result<Vec<Code>, serde_json::Error> {
    let own = operation.remove("x-problems").map(serde_json::from_value).transpose()?;
    let mut codes: Vec<Code> = own.unwrap_or_default();
    if !is_probe(path) {
        codes.extend([Code::RateLimited, Code::TooManyConcurrent]);
    }
    if operation.contains_key("security") {
        return Ok(codes);
    }
    codes.extend([Code::Unauthorized, Code::Internal, Code::Starting]);
    if operation.get(PERMISSION).is_some_and(|needed| needed != Permission::Enter.as_str()) {
        codes.push(Code::Forbidden);
    }
    if path == "/metrics" {
        return Ok(codes);
    }
    codes.extend([Code::MalformedQuery, Code::UnknownField, Code::InvalidField, Code::Overloaded]);
    codes.extend([Code::DatabaseUnavailable, Code::ModelUnavailable, Code::Timeout]);
    codes.extend([
        Code::UnsupportedMediaType,
        Code::UnsupportedEncoding,
        Code::MalformedJson,
        Code::MalformedMultipart,
    ]);
    codes.extend([Code::IncompleteBody, Code::BodyTooLarge, Code::RequestTimeout]);
    if path.contains('{') {
        codes.push(Code::MalformedPath);
    }
    for (segment, code) in [
        ("{gallery}", Code::GalleryNotFound),
        ("{subject}", Code::SubjectNotFound),
        ("{face}", Code::FaceNotFound),
        ("{model}", Code::ModelNotFound),
        ("{job}", Code::JobNotFound),
        ("{key}", Code::KeyNotFound),
    ] {
        if path.contains(segment) {
            codes.push(code);
        }
    }
    let has = |field: &str| request.fields.contains_key(field);
    if has("gallery") && request.streamed.is_none() {
        codes.push(Code::GalleryNotFound);
    }
    if has("cursor") {
        codes.push(Code::InvalidCursor);
    }
    if has("fmr") || has("policy") {
        codes.push(Code::RateBeyondMeasured);
    }
    if !request.required.is_empty() || !request.files.is_empty() {
        codes.push(Code::MissingField);
    }
    if request.files.iter().any(|file| file.starts_with("image")) {
        codes.extend([Code::EmptyImage, Code::UnsupportedImage, Code::CorruptImage, Code::ImageTooLarge]);
        codes.push(Code::PixelsBeyondLimit);
    }
    Ok(codes)
}

/// One answer for each status that the codes have.
fn add_failures(operation: &mut Object, codes: &[Code]) {
    let mut by_status: BTreeMap<u16, BTreeSet<String>> = BTreeMap::new();
    for code in codes {
        let name = serde_json::to_value(code).ok().and_then(|name| name.as_str().map(|name| format!("`{name}`")));
        by_status.entry(code.status().as_u16()).or_default().extend(name);
    }
    let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else { return };
    for (status, names) in by_status {
        let names: Vec<String> = names.into_iter().collect();
        let problem = json!({"schema": {"$ref": format!("{SCHEMAS}Problem")}});
        let answer = json!({"description": names.join(", "), "content": {"application/problem+json": problem}});
        responses.entry(status.to_string()).or_insert(answer);
    }
}

/// Items of a list, which utoipa writes out where the list is generic, are named where they have a name.
fn name_items(schemas: &mut Object) {
    let bare = |schema: &Value| {
        let mut schema = schema.clone();
        schema.as_object_mut().map(|schema| schema.remove("description"));
        schema
    };
    let named: Vec<(String, Value)> = schemas.iter().map(|(name, schema)| (name.clone(), bare(schema))).collect();
    for list in schemas.values_mut() {
        let Some(items) = list.pointer_mut("/properties/items/items") else { continue };
        let plain = bare(items);
        if let Some((name, _)) = named.iter().find(|(_, schema)| *schema == plain) {
            *items = json!({"$ref": format!("{SCHEMAS}{name}")});
        }
    }
}

/// The names of all schemas that are referred to, from the document or from one of them.
fn used(document: &Value, schemas: &Object) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    let mut waiting = vec![document];
    while let Some(value) = waiting.pop() {
        match value {
            Value::Array(items) => waiting.extend(items),
            Value::Object(object) => {
                waiting.extend(object.values());
                let name = reference(value);
                if let Some(schema) = schemas.get(name)
                    && used.insert(name.to_owned())
                {
                    waiting.push(schema);
                }
            }
            _ => {}
        }
    }
    used
}

/// What servers answered to real requests, by operation; scripts/make_examples.py writes it.
const EXAMPLES: &str = include_str!("examples.json");

/// Requests and answers of an operation.
#[derive(Deserialize)]
struct Examples {
    request: Option<Value>,
    answers: BTreeMap<String, Value>,
}

/// Shows a request and its answers where there are some.
fn show_examples(operation: &mut Object, examples: &BTreeMap<String, Examples>) {
    let id = operation.get("operationId").and_then(Value::as_str).unwrap_or_default();
    let Some(Examples { request, answers }) = examples.get(id) else { return };
    if let (Some(request), Some(body)) = (request, operation.get_mut("requestBody"))
        && let Some(json) = body.pointer_mut("/content/application~1json").and_then(Value::as_object_mut)
    {
        json.insert("example".to_owned(), request.clone());
    }
    for (status, answer) in answers {
        let content = operation.get_mut("responses").and_then(|answers| answers.get_mut(status));
        if let Some(json) = content.and_then(|answer| answer.pointer_mut("/content/application~1json"))
            && let Some(json) = json.as_object_mut()
        {
            json.insert("example".to_owned(), answer.clone());
        }
    }
}
