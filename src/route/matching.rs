//! Which of a service's routes a request takes. Pure.

use std::borrow::Cow;

use crate::model::{Route, judgeable_path};

/// The first route that fits the request. `target`: the path with what follows it, as the request has it. `header`: the value
/// of a header, by its name in lower case; of several the first.
///
/// A path that services may read differently ([`judgeable_path`]) fits no route that asks for one: it would go where nobody
/// meant it to. Methods are compared as they are (RFC 9110 §9.1).
pub fn route_for<'a, 'h>(
    routes: &'a [Route],
    method: &str,
    target: &str,
    header: impl Fn(&str) -> Option<&'h str>,
) -> Option<&'a Route> {
    // Read at most once, and not at all where no route asks for it.
    let mut path: Option<Option<Cow<'_, str>>> = None;
    routes.iter().find(|route| {
        (route.methods.is_empty() || route.methods.iter().any(|each| each == method))
            && route.path.as_ref().is_none_or(|pattern| {
                let path = path.get_or_insert_with(|| judgeable_path(target));
                path.as_deref().is_some_and(|path| pattern.fits(path))
            })
            && route.headers.iter().all(|(name, wanted)| {
                header(name).is_some_and(|value| wanted.as_ref().is_none_or(|wanted| wanted == value))
            })
    })
}

#[cfg(test)]
mod tests {
    use crate::model::PathPattern;

    use super::*;

    fn route(name: &str, methods: &[&str], path: Option<&str>, headers: &[(&str, Option<&str>)]) -> Route {
        Route {
            name: name.to_owned(),
            methods: methods.iter().map(|method| (*method).to_owned()).collect(),
            path: path.map(|path| PathPattern::parse(path).unwrap()),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect(),
            ..Route::default()
        }
    }

    fn taken<'a>(routes: &'a [Route], method: &str, target: &str, headers: &[(&str, &str)]) -> &'a str {
        let header = |wanted: &str| headers.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
        route_for(routes, method, target, header).map_or("none", |route| &route.name)
    }

    #[test]
    fn the_first_route_of_which_everything_fits_is_taken() {
        let routes = [
            route("canary", &["GET"], Some("/v2/*"), &[("x-canary", Some("yes")), ("x-user", None)]),
            route("v2", &[], Some("/v2/*"), &[]),
            route("writes", &["POST", "PUT"], None, &[]),
        ];
        for (method, target, headers, expected) in [
            ("GET", "/v2/a", [("x-canary", "yes"), ("x-user", "7")].as_slice(), "canary"),
            ("GET", "/v2/a", &[("x-canary", "yes")], "v2"),
            ("GET", "/v2/a", &[("x-canary", "no"), ("x-user", "7")], "v2"),
            ("POST", "/v2/a", &[("x-canary", "yes"), ("x-user", "7")], "v2"),
            ("POST", "/v1", &[], "writes"),
            ("post", "/v1", &[], "none"),
            ("GET", "/v1?next=/v2/a", &[], "none"),
        ] {
            assert_eq!(taken(&routes, method, target, headers), expected, "{method} {target} {headers:?}");
        }
    }

    #[test]
    fn a_path_that_can_be_read_in_several_ways_fits_no_route_that_has_one() {
        let routes = [route("all", &[], Some("/*"), &[]), route("any", &[], None, &[])];
        assert_eq!(taken(&routes, "GET", "/a%20b", &[]), "all");
        for target in ["/a/../b", "//a", "/a%2fb", "/a;b", "*", "http://billing/a", ""] {
            assert_eq!(taken(&routes, "GET", target, &[]), "any", "{target}");
        }
    }

    #[test]
    fn a_path_is_compared_as_services_read_it() {
        let routes = [route("admin", &[], Some("/admin"), &[])];
        assert_eq!(taken(&routes, "GET", "/%61dmin?x=1", &[]), "admin");
        assert_eq!(taken(&routes, "GET", "/admin/", &[]), "none");
    }
}
