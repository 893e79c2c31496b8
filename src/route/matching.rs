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
