//! The routes of the admin port; none of them is known to any other.

use hyper::Method;

use super::{RouteError, decoded, segments};
use crate::name::TenantName;

/// Everything that the admin port answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminRoute {
    Tenants,
    CreateTenant(TenantName),
    Tenant(TenantName),
    RemoveTenant(TenantName),
    Limits(TenantName),
    SetLimits(TenantName),
    Keys(TenantName),
    CreateKey(TenantName),
    /// The id is a text that may be none.
    RevokeKey(TenantName, String),
    /// Of all tenants.
    AllKeys,
    RevokeAnyKey(String),
    /// What all tenants used.
    Usage,
    Ledger,
}

/// Finds the route of a request to the admin port.
pub fn admin(method: &Method, path: &str) -> Result<AdminRoute, RouteError> {
    let segments = segments(path)?;
    let allow = match segments.as_slice() {
        ["admin", "tenants"] => "GET",
        ["admin", "tenants", _] => "GET, PUT, DELETE",
        ["admin", "tenants", _, "limits"] => "GET, PUT",
        ["admin", "tenants", _, "keys"] => "GET, POST",
        ["admin", "tenants", _, "keys", _] => "DELETE",
        ["admin", "usage" | "ledger" | "keys"] => "GET",
        ["admin", "keys", _] => "DELETE",
        _ => return Err(RouteError::UnknownPath),
    };
    let tenant = |segment| decoded(segment).and_then(|name| name.parse().ok()).ok_or(RouteError::UnknownPath);
    match (method.as_str(), segments.as_slice()) {
        ("GET", ["admin", "tenants"]) => Ok(AdminRoute::Tenants),
        ("GET", ["admin", "usage"]) => Ok(AdminRoute::Usage),
        ("GET", ["admin", "ledger"]) => Ok(AdminRoute::Ledger),
        ("GET", ["admin", "keys"]) => Ok(AdminRoute::AllKeys),
        ("DELETE", ["admin", "keys", id]) => {
            Ok(AdminRoute::RevokeAnyKey(decoded(id).ok_or(RouteError::UnknownPath)?))
        }
        ("GET", [_, _, name]) => Ok(AdminRoute::Tenant(tenant(name)?)),
        ("PUT", [_, _, name]) => Ok(AdminRoute::CreateTenant(tenant(name)?)),
        ("DELETE", [_, _, name]) => Ok(AdminRoute::RemoveTenant(tenant(name)?)),
        ("GET", [_, _, name, "limits"]) => Ok(AdminRoute::Limits(tenant(name)?)),
        ("PUT", [_, _, name, "limits"]) => Ok(AdminRoute::SetLimits(tenant(name)?)),
        ("GET", [_, _, name, _]) => Ok(AdminRoute::Keys(tenant(name)?)),
        ("POST", [_, _, name, _]) => Ok(AdminRoute::CreateKey(tenant(name)?)),
        ("DELETE", [_, _, name, _, id]) => {
            Ok(AdminRoute::RevokeKey(tenant(name)?, decoded(id).ok_or(RouteError::UnknownPath)?))
        }
        _ => Err(RouteError::Method { allow }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_its_methods() {
        let acme = || "acme".parse().expect("a name");
        let id = "0123456789abcdef";
        for (method, path, route) in [
            (Method::GET, "", AdminRoute::Tenants),
            (Method::GET, "/acme", AdminRoute::Tenant(acme())),
            (Method::GET, "/acme/limits", AdminRoute::Limits(acme())),
            (Method::PUT, "/acme/limits", AdminRoute::SetLimits(acme())),
            (Method::PUT, "/acme", AdminRoute::CreateTenant(acme())),
            (Method::DELETE, "/ac%6de", AdminRoute::RemoveTenant(acme())),
            (Method::GET, "/acme/keys", AdminRoute::Keys(acme())),
            (Method::POST, "/acme/keys", AdminRoute::CreateKey(acme())),
            (Method::DELETE, "/acme/keys/0123456789abcdef", AdminRoute::RevokeKey(acme(), id.into())),
        ] {
            assert_eq!(admin(&method, &format!("/v2/admin/tenants{path}")), Ok(route), "{method} {path}");
        }
        let wrong = admin(&Method::POST, "/v2/admin/tenants/acme");
        assert_eq!(wrong, Err(RouteError::Method { allow: "GET, PUT, DELETE" }));
        assert_eq!(admin(&Method::GET, "/v2/admin/usage"), Ok(AdminRoute::Usage));
        assert_eq!(admin(&Method::GET, "/v2/admin/ledger"), Ok(AdminRoute::Ledger));
        assert_eq!(admin(&Method::GET, "/v2/admin/keys"), Ok(AdminRoute::AllKeys));
        assert_eq!(admin(&Method::DELETE, "/v2/admin/keys/x"), Ok(AdminRoute::RevokeAnyKey("x".into())));
        for path in ["/v2/admin/usage", "/v2/admin/ledger", "/v2/admin/keys"] {
            assert_eq!(admin(&Method::PUT, path), Err(RouteError::Method { allow: "GET" }));
        }
        assert_eq!(admin(&Method::HEAD, "/v2/admin/tenants"), Err(RouteError::Method { allow: "GET" }));
    }

    #[test]
    fn other_paths_are_unknown_here_and_these_are_unknown_elsewhere() {
        for path in
            ["/v2", "/v2/models/a", "/v2/admin", "/v2/admin/tenants/", "/v2/admin/tenants/%2e%2e", "/"]
        {
            assert_eq!(admin(&Method::PUT, path), Err(RouteError::UnknownPath), "{path}");
        }
        for path in ["/v2/admin/tenants", "/v2/admin/tenants/acme", "/v2/admin/tenants/acme/keys"] {
            assert_eq!(super::super::route(&Method::GET, path), Err(RouteError::UnknownPath), "{path}");
        }
    }
}
