use proptest::prelude::*;

use super::*;

fn get(path: &str) -> Result<Route, RouteError> {
    route(&Method::GET, path)
}

fn post(path: &str) -> Result<Route, RouteError> {
    route(&Method::POST, path)
}

fn at(model: &str, version: Option<&str>) -> Target {
    Target {
        model: model.parse().expect("a name"),
        version: version.map(|version| version.parse().expect("a version")),
    }
}

#[test]
fn both_url_forms_lead_to_the_same_model() {
    assert_eq!(get("/v2/models/iris"), Ok(Route::ModelMetadata(at("iris", None))));
    assert_eq!(get("/v2/models/iris/versions/3"), Ok(Route::ModelMetadata(at("iris", Some("3")))));
    assert_eq!(post("/v2/models/iris/infer"), Ok(Route::Infer(at("iris", None))));
    assert_eq!(post("/v2/models/iris/versions/3/infer"), Ok(Route::Infer(at("iris", Some("3")))));
    for (version, segment) in [(None, ""), (Some("3"), "/versions/3")] {
        let path = |last| format!("/v2/models/iris{segment}/{last}");
        assert_eq!(post(&path("generate")), Ok(Route::Generate(at("iris", version))));
        assert_eq!(post(&path("infer_stream")), Ok(Route::InferStream(at("iris", version))));
        assert_eq!(post(&path("generate_stream")), Ok(Route::GenerateStream(at("iris", version))));
        assert_eq!(get(&path("generate")), Err(RouteError::Method { allow: "POST" }));
    }
    assert_eq!(get("/v2/models/iris/ready"), Ok(Route::ModelReady(at("iris", None))));
    assert_eq!(get("/v2/models/iris/versions/3/ready"), Ok(Route::ModelReady(at("iris", Some("3")))));
}

#[test]
fn server_routes() {
    assert_eq!(get("/v2"), Ok(Route::ServerMetadata));
    assert_eq!(get("/v2/"), Ok(Route::ServerMetadata));
    assert_eq!(get("/v2/health/live"), Ok(Route::Live));
    assert_eq!(get("/v2/health/ready"), Ok(Route::Ready));
    assert_eq!(get("/v2/usage"), Ok(Route::Usage));
    assert_eq!(post("/v2/repository/index"), Ok(Route::RepositoryIndex));
    assert_eq!(post("/v2/repository/models/a/versions/2/verify"), Ok(Route::Verify(at("a", Some("2")))));
    assert_eq!(post("/v2/repository/models/a/load"), Ok(Route::RepositoryLoad("a".parse().expect("a name"))));
}

#[test]
fn a_wrong_method_names_the_right_one() {
    assert_eq!(post("/v2/health/live"), Err(RouteError::Method { allow: "GET" }));
    assert_eq!(get("/v2/models/iris/infer"), Err(RouteError::Method { allow: "POST" }));
    assert_eq!(get("/v2/repository/models/a/versions/2/verify"), Err(RouteError::Method { allow: "POST" }));
    assert_eq!(route(&Method::HEAD, "/v2"), Err(RouteError::Method { allow: "GET" }));
}

#[test]
fn a_name_is_decoded_once_and_after_splitting() {
    assert_eq!(get("/v2/models/iri%73"), Ok(Route::ModelMetadata(at("iris", None))));
    for hostile in
        ["a%2Fb", "%2e%2e", "..", ".", "%252e", "a%00", "a%zz", "%E2%98%83", "%ff", "", "-a", "a\\b"]
    {
        let path = format!("/v2/models/{hostile}/ready");
        assert!(matches!(get(&path), Err(RouteError::UnknownModel(_))), "{path}");
    }
}

#[test]
fn what_is_quoted_back_is_bounded() {
    let Err(RouteError::UnknownModel(quoted)) = get(&format!("/v2/models/{}", "é".repeat(5000))) else {
        panic!("a long name must be unknown");
    };
    assert_eq!(quoted.chars().count(), crate::name::MAX_LENGTH);
}

#[test]
fn other_paths_are_unknown() {
    for path in [
        "",
        "/",
        "/v1/models",
        "/v2x",
        "/v2//",
        "/v2/models/a/stats/",
        "/v2/models/a/",
        "/v2/health/live/",
        "//v2",
    ] {
        assert_eq!(get(path), Err(RouteError::UnknownPath), "{path}");
    }
}

proptest! {
    #[test]
    fn no_path_panics(path in ".{0,200}") {
        let _ = get(&path);
        let _ = post(&format!("/v2/models/{path}/infer"));
    }
}
