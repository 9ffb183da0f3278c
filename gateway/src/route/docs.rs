//! The routes of OpenAPI documents, under the names that MLServer has for them too.

use hyper::Method;

use super::{Extension, RouteError, Target, target};

/// The route of a document or of a page that shows it, if the path is one of theirs.
pub(super) fn docs(method: &Method, segments: &[&str]) -> Option<Result<Extension, RouteError>> {
    let (of, form) = match segments {
        ["docs", form @ ..] => (None, form),
        ["models", model, "docs", form @ ..] => (Some((model, None)), form),
        ["models", model, "versions", version, "docs", form @ ..] => (Some((model, Some(*version))), form),
        _ => return None,
    };
    let form: fn(Option<Target>) -> Extension = match form {
        [] => Extension::Docs,
        ["openapi.json" | "dataplane.json"] => Extension::Document,
        ["index.html"] => |_| Extension::Page,
        _ => return None,
    };
    if method != Method::GET {
        return Some(Err(RouteError::Method { allow: "GET" }));
    }
    Some(of.map(|(model, version)| target(model, version)).transpose().map(form))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Route, route},
        *,
    };

    fn get(path: &str) -> Result<Route, RouteError> {
        route(&Method::GET, path)
    }

    #[test]
    fn of_everything_of_a_model_and_of_a_version() {
        let at = |version| Some(target("iris", version).expect("names"));
        for (place, of) in [
            ("/v2", None),
            ("/v2/models/iris", at(None)),
            ("/v2/models/iris/versions/docs", at(Some("docs"))),
        ] {
            for (form, expected) in [
                ("", Extension::Docs(of.clone())),
                ("/openapi.json", Extension::Document(of.clone())),
                ("/dataplane.json", Extension::Document(of.clone())),
                ("/index.html", Extension::Page),
            ] {
                let path = format!("{place}/docs{form}");
                assert_eq!(get(&path), Ok(Route::Extension(expected)), "{path}");
                let wrong = route(&Method::POST, &path);
                assert_eq!(wrong, Err(RouteError::Method { allow: "GET" }), "{path}");
            }
            assert_eq!(get(&format!("{place}/docs/other")), Err(RouteError::UnknownPath));
        }
        assert!(matches!(get("/v2/models/..%2f/docs"), Err(RouteError::UnknownModel(_))));
        assert!(matches!(get("/v2/models/a%2fb/docs/index.html"), Err(RouteError::UnknownModel(_))));
        assert_eq!(get("/v2/models/docs"), Ok(Route::ModelMetadata(target("docs", None).expect("a name"))));
    }
}
