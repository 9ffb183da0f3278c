//! Any text as a request's path: what is routed names a model and a version that are safe file names.
#![no_main]

use airlock::route::{Route, route};
use hyper::Method;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|path: &str| {
    for method in [Method::GET, Method::POST] {
        if let Ok(Route::Infer(target) | Route::ModelMetadata(target) | Route::ModelReady(target)) =
            route(&method, path)
        {
            let version = target.version.as_ref().map_or("1", |version| version.as_str());
            for name in [target.model.as_str(), version] {
                assert!(!name.is_empty() && !name.contains(['/', '\\', '\0']) && !name.starts_with('.'));
            }
        }
    }
});
