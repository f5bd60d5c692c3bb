//! What our own API looks like to programs: `GET /openapi.json`, made from the table of routes.
//!
//! A route tells about itself where it stands in the table:
//!
//! ```ignore
//! get("/plugins/drops", Superadmin, Open, list).documented(
//!     about("What became of the files in the watched directories")
//!         .query("limit", "integer", "How many, 1 to 1000")
//!         .answers::<documents::Drops>(200, "The newest first."),
//! )
//! ```
//!
//! Path parameters, who may call and the shape of problems are added here. Types of documents derive
//! [`utoipa::ToSchema`] and stand in [`documents`] (or in a file of their own beside it), since handlers write
//! JSON without them; tests hold real answers against the types. A route of our own without a word fails a test.

pub mod documents;

use std::collections::BTreeMap;

use http::Method;
use utoipa::ToSchema;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, Parameter, ParameterBuilder, ParameterIn, PathsBuilder};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{Components, ComponentsBuilder, Object, Schema, SchemaType, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, Ref, RefOr, Required, Response, ResponseBuilder,
};

use crate::route::{Access, Route};

/// Name of the scheme by which requests are signed.
const SIGNATURE: &str = "signature";
const JSON: &str = "application/json";

/// What a route does, takes and answers.
pub struct About {
    summary: &'static str,
    details: Option<&'static str>,
    parameters: Vec<Parameter>,
    body: Option<RequestBody>,
    answers: Vec<(u16, Response)>,
    schemas: Vec<(String, RefOr<Schema>)>,
}

/// Begins to tell about a route, with one line.
pub fn about(summary: &'static str) -> About {
    About { summary, details: None, parameters: Vec::new(), body: None, answers: Vec::new(), schemas: Vec::new() }
}

impl About {
    /// More than the one line says. May be Markdown.
    #[must_use]
    pub fn in_detail(mut self, words: &'static str) -> Self {
        self.details = Some(words);
        self
    }

    /// An optional parameter of the query; `kind` is a type of JSON (`string`, `integer`, `number`, `boolean`).
    #[must_use]
    pub fn query(mut self, name: &'static str, kind: &'static str, words: &'static str) -> Self {
        self.parameters.push(parameter(name, ParameterIn::Query, Required::False, kind, Some(words)));
        self
    }

    /// An optional header.
    #[must_use]
    pub fn header(mut self, name: &'static str, words: &'static str) -> Self {
        self.parameters.push(parameter(name, ParameterIn::Header, Required::False, "string", Some(words)));
        self
    }

    /// The body: a JSON document.
    #[must_use]
    pub fn takes<T: ToSchema>(mut self) -> Self {
        let content = ContentBuilder::new().schema(Some(self.named::<T>())).build();
        self.body = Some(RequestBodyBuilder::new().required(Some(Required::True)).content(JSON, content).build());
        self
    }

    /// The body: bytes of another kind.
    #[must_use]
    pub fn takes_bytes(mut self, content_type: &'static str, words: &'static str) -> Self {
        let body = RequestBodyBuilder::new().required(Some(Required::True)).description(Some(words));
        self.body = Some(body.content(content_type, ContentBuilder::new().build()).build());
        self
    }

    /// An answer in JSON.
    #[must_use]
    pub fn answers<T: ToSchema>(mut self, status: u16, words: &'static str) -> Self {
        let content = ContentBuilder::new().schema(Some(self.named::<T>())).build();
        self.answers.push((status, ResponseBuilder::new().description(words).content(JSON, content).build()));
        self
    }

    /// An answer of another kind: text, bytes, or JSON of any shape.
    #[must_use]
    pub fn answers_with(mut self, status: u16, content_type: &'static str, words: &'static str) -> Self {
        let content = ContentBuilder::new().build();
        self.answers.push((status, ResponseBuilder::new().description(words).content(content_type, content).build()));
        self
    }

    /// A reference to a type, which goes into the components with everything that it is made of.
    fn named<T: ToSchema>(&mut self) -> RefOr<Schema> {
        collect::<T>(&mut self.schemas);
        Ref::from_schema_name(T::name()).into()
    }
}

fn collect<T: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
}

fn parameter(name: &str, place: ParameterIn, required: Required, kind: &str, words: Option<&str>) -> Parameter {
    let kind = match kind {
        "integer" => Type::Integer,
        "number" => Type::Number,
        "boolean" => Type::Boolean,
        _ => Type::String,
    };
    let schema = Schema::Object(Object::with_type(SchemaType::from(kind)));
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .description(words)
        .schema(Some(schema))
        .build()
}

/// Whether a path belongs to our own API, as opposed to the one that clients of the reference know.
pub fn is_own(path: &str) -> bool {
    let operations = ["/healthz", "/readyz", "/metrics", "/openapi.json", "/audit"];
    path == "/plugins" || path.starts_with("/plugins/") || operations.contains(&path)
}

/// The description of all documented routes.
pub fn document(routes: &[Route]) -> OpenApi {
    let mut paths = PathsBuilder::new();
    let mut schemas: BTreeMap<String, RefOr<Schema>> = BTreeMap::new();
    let mut problem = about("");
    let problem_schema = problem.named::<documents::Problem>();
    schemas.extend(problem.schemas);
    for route in routes {
        let (Some(about), Some(method)) = (&route.about, method(&route.method)) else { continue };
        schemas.extend(about.schemas.iter().cloned());
        let mut operation = OperationBuilder::new()
            .operation_id(Some(operation_id(route)))
            .summary(Some(about.summary))
            .description(Some(description(about, route.access)))
            .tag(tag(route.path));
        for segment in route.path.split('/') {
            if let Some(name) = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
                operation = operation.parameter(parameter(name, ParameterIn::Path, Required::True, "string", None));
            }
        }
        for parameter in &about.parameters {
            operation = operation.parameter(parameter.clone());
        }
        operation = operation.request_body(about.body.clone());
        for (status, answer) in &about.answers {
            operation = operation.response(status.to_string(), answer.clone());
        }
        if route.access != Access::Anonymous {
            let content = ContentBuilder::new().schema(Some(problem_schema.clone())).build();
            let refusal = ResponseBuilder::new()
                .description("What went wrong, as a problem document.")
                .content("application/problem+json", content)
                .build();
            operation = operation.response("default", refusal).security(SecurityRequirement::new(SIGNATURE, [""; 0]));
        }
        paths = paths.path(route.path, PathItem::new(method, operation));
    }
    let mut components: Components = ComponentsBuilder::new().schemas_from_iter(schemas).build();
    let signature = ApiKeyValue::with_description(
        "Authorization",
        "`BackendAI signMethod=HMAC-SHA256, credential=ACCESS_KEY:SIGNATURE`: the request signed with the secret \
         key, together with the headers `Date` and `X-BackendAI-Version`.",
    );
    components.add_security_scheme(SIGNATURE, SecurityScheme::ApiKey(ApiKey::Header(signature)));
    let info = InfoBuilder::new()
        .title("Quarterdeck")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Quarterdeck's own API: administration of policies, and what operators ask. Sessions, identity and \
             resources are served as clients of Backend.AI Manager know them and aren't described here.",
        ))
        .build();
    OpenApiBuilder::new().info(info).paths(paths.build()).components(Some(components)).build()
}

fn method(method: &Method) -> Option<HttpMethod> {
    Some(match *method {
        Method::GET => HttpMethod::Get,
        Method::POST => HttpMethod::Post,
        Method::PUT => HttpMethod::Put,
        Method::PATCH => HttpMethod::Patch,
        Method::DELETE => HttpMethod::Delete,
        _ => return None,
    })
}

/// `get_plugins_rounds_id` for `GET /plugins/rounds/{id}`.
fn operation_id(route: &Route) -> String {
    let mut id = route.method.as_str().to_ascii_lowercase();
    for word in route.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()) {
        id.push('_');
        id.push_str(word);
    }
    id
}

/// What there is to say beyond the one line, and who may call.
fn description(about: &About, access: Access) -> String {
    let who = match access {
        Access::Anonymous => "Nobody needs to sign.",
        Access::Auth => "For everybody who signs.",
        Access::Admin => "For administrators.",
        Access::Superadmin => "For superadmins.",
    };
    about.details.map_or_else(|| who.to_owned(), |details| format!("{details} {who}"))
}

/// The part of the API that a path belongs to.
fn tag(path: &str) -> &'static str {
    if path == "/plugins" || path.starts_with("/plugins/") { "policies" } else { "operations" }
}

#[cfg(test)]
mod tests;
