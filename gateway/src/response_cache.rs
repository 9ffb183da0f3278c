//! Responses that are kept: a model may say that the same request always gets the same response, which then needs no run.
//!
//! What is kept belongs to the tenant that asked, and nobody else can tell whether it is there. All of it together has a bound in
//! bytes; beyond that the tenant who takes the most of it loses what it used longest ago, so that nobody pushes out another
//! one's responses as long as he has less.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use lru::LruCache;

use crate::{
    digest::{Digest, Hasher},
    name::TenantName,
    tensor::{InferRequest, InferResponse, Parameter, Parameters},
};

/// Bytes that an entry takes beside its tensors and texts: an estimate of its key, its place and its tensors' heads.
const ENTRY: usize = 512;

/// The digest of a model's content and of all of a request that its response may depend on: parameters, inputs, and which outputs
/// it asks for. The request's id is not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(Digest);

impl Key {
    /// Takes as long as a SHA-256 of the inputs does.
    pub fn new(content: &Digest, request: &InferRequest) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(content.as_bytes());
        add_parameters(&mut hasher, &request.parameters);
        add_count(&mut hasher, request.inputs.len());
        for input in &request.inputs {
            add(&mut hasher, input.name.as_bytes());
            add(&mut hasher, input.datatype.name().as_bytes());
            add_count(&mut hasher, input.shape.len());
            input.shape.iter().for_each(|dim| hasher.update(&dim.to_le_bytes()));
            add_parameters(&mut hasher, &input.parameters);
            add(&mut hasher, &input.bytes);
        }
        add_count(&mut hasher, request.outputs.len());
        request.outputs.iter().for_each(|name| add(&mut hasher, name.as_bytes()));
        Self(hasher.finish())
    }
}

/// Each part with its length, so that no two requests read the same.
fn add(hasher: &mut Hasher, part: &[u8]) {
    add_count(hasher, part.len());
    hasher.update(part);
}

fn add_count(hasher: &mut Hasher, count: usize) {
    hasher.update(&(count as u64).to_le_bytes());
}

fn add_parameters(hasher: &mut Hasher, parameters: &Parameters) {
    add_count(hasher, parameters.len());
    for (name, value) in parameters {
        add(hasher, name.as_bytes());
        let (kind, value): (u8, &[u8]) = match value {
            Parameter::Boolean(value) => (0, &[u8::from(*value)]),
            Parameter::Int64(value) => (1, &value.to_le_bytes()),
            Parameter::Uint64(value) => (2, &value.to_le_bytes()),
            Parameter::Double(value) => (3, &value.to_bits().to_le_bytes()),
            Parameter::Text(text) => (4, text.as_bytes()),
            Parameter::Json(text) => (5, text.as_bytes()),
        };
        hasher.update(&[kind]);
        add(hasher, value);
    }
}

/// All that is kept.
#[derive(Debug)]
pub struct ResponseCache {
    max_bytes: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    tenants: HashMap<TenantName, Own>,
    bytes: usize,
}

/// What is kept for one tenant.
#[derive(Debug)]
struct Own {
    responses: LruCache<Key, (Arc<InferResponse>, usize)>,
    bytes: usize,
}

impl Default for Own {
    fn default() -> Self {
        Self { responses: LruCache::unbounded(), bytes: 0 }
    }
}

impl ResponseCache {
    /// Keeps at most so many bytes; 0: nothing.
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, kept: Mutex::default() }
    }

    /// Whether it keeps anything.
    pub fn is_on(&self) -> bool {
        self.max_bytes > 0
    }

    pub fn get(&self, tenant: &TenantName, key: &Key) -> Option<Arc<InferResponse>> {
        let mut kept = self.kept();
        let (response, _) = kept.tenants.get_mut(tenant)?.responses.get(key)?;
        Some(Arc::clone(response))
    }

    /// Keeps a copy of a response, unless it alone would take more than a quarter of the room.
    pub fn put(&self, tenant: &TenantName, key: Key, response: &InferResponse) {
        let weight = weight(response);
        if weight > self.max_bytes / 4 {
            return;
        }
        let mut copy = response.clone();
        for output in &mut copy.outputs {
            // It may be a part of something larger, which would live as long.
            output.bytes = Bytes::copy_from_slice(&output.bytes);
        }
        let mut kept = self.kept();
        let own = match kept.tenants.get_mut(tenant) {
            Some(own) => own,
            None => kept.tenants.entry(tenant.clone()).or_default(),
        };
        let replaced = own.responses.put(key, (Arc::new(copy), weight)).map_or(0, |(_, weight)| weight);
        own.bytes = own.bytes + weight - replaced;
        kept.bytes = kept.bytes + weight - replaced;
        while kept.bytes > self.max_bytes {
            kept.drop_one();
        }
    }

    /// Responses that are kept, and the bytes that they take.
    pub fn taken(&self) -> (usize, usize) {
        let kept = self.kept();
        (kept.tenants.values().map(|own| own.responses.len()).sum(), kept.bytes)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing panics while the lock is held, and the sums are right at every point.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Drops what the tenant with the most bytes used longest ago.
    fn drop_one(&mut self) {
        let most = self.tenants.iter_mut().max_by_key(|(_, own)| own.bytes);
        let Some((tenant, own)) = most else { return };
        let dropped = own.responses.pop_lru().map_or(0, |(_, (_, weight))| weight);
        own.bytes -= dropped;
        self.bytes -= dropped;
        if own.responses.is_empty() {
            let tenant = tenant.clone();
            self.tenants.remove(&tenant);
        }
    }
}

fn weight(response: &InferResponse) -> usize {
    let names: usize = response.outputs.iter().map(|output| output.name.len() + 8 * output.shape.len()).sum();
    ENTRY + names + response.bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Datatype, Tensor};

    fn tensor(name: &str, shape: &[u64], bytes: &[u8]) -> Tensor {
        Tensor {
            name: name.into(),
            datatype: Datatype::Uint8,
            shape: shape.to_vec(),
            parameters: Vec::new(),
            bytes: Bytes::copy_from_slice(bytes),
        }
    }

    fn request() -> InferRequest {
        InferRequest { inputs: vec![tensor("A", &[2, 2], &[1, 2, 3, 4])], ..InferRequest::default() }
    }

    fn response(bytes: usize) -> InferResponse {
        InferResponse { outputs: vec![tensor("B", &[bytes as u64], &vec![7; bytes])], ..Default::default() }
    }

    fn tenant(name: &str) -> TenantName {
        name.parse().expect("a name")
    }

    #[test]
    fn whatever_a_response_may_depend_on_makes_another_key() {
        let content = Digest::of(b"model");
        let key = |change: fn(&mut InferRequest)| {
            let mut request = request();
            change(&mut request);
            Key::new(&content, &request)
        };
        let mut keys = vec![
            key(|_| ()),
            key(|request| request.inputs[0].bytes = Bytes::from_static(&[1, 2, 3, 5])),
            key(|request| request.inputs[0].shape = vec![4]),
            key(|request| request.inputs[0].name = "B".into()),
            key(|request| request.inputs[0].datatype = Datatype::Int8),
            key(|request| request.inputs[0].parameters = vec![("p".into(), Parameter::Int64(1))]),
            key(|request| request.inputs.push(tensor("B", &[0], &[]))),
            key(|request| request.outputs = vec!["B".into()]),
            key(|request| request.outputs = vec!["B".into(), String::new()]),
            key(|request| request.parameters = vec![("p".into(), Parameter::Int64(1))]),
            key(|request| request.parameters = vec![("p".into(), Parameter::Uint64(1))]),
            key(|request| request.parameters = vec![("p".into(), Parameter::Text("1".into()))]),
            key(|request| request.parameters = vec![("p1".into(), Parameter::Text(String::new()))]),
            Key::new(&Digest::of(b"another"), &request()),
        ];
        assert_eq!(keys[0], key(|request| request.id = Some("7".into())), "an id changes nothing");
        keys.sort_by_key(|key| *key.0.as_bytes());
        keys.dedup();
        assert_eq!(keys.len(), 14);
    }

    #[test]
    fn a_response_is_its_tenants_alone_and_comes_back_whole() {
        let cache = ResponseCache::new(1 << 20);
        let key = Key::new(&Digest::of(b"model"), &request());
        cache.put(&tenant("one"), key, &response(10));
        assert_eq!(cache.get(&tenant("one"), &key).as_deref(), Some(&response(10)));
        assert_eq!(cache.get(&tenant("two"), &key), None);
        cache.put(&tenant("one"), key, &response(20));
        assert_eq!(cache.taken(), (1, weight(&response(20))), "what is replaced takes nothing");
    }

    #[test]
    fn beyond_its_bound_who_has_most_loses_what_was_used_longest_ago() {
        let each = weight(&response(1000));
        let cache = ResponseCache::new(8 * each);
        let key = |number: u8| Key::new(&Digest::of(&[number]), &request());
        let (small, large) = (tenant("small"), tenant("large"));
        cache.put(&small, key(0), &response(1000));
        for number in 0..50 {
            cache.put(&large, key(number), &response(1000));
            assert!(cache.get(&large, &key(0)).is_some(), "in use");
        }
        assert_eq!(cache.taken(), (8, 8 * each));
        assert!(cache.get(&small, &key(0)).is_some());
        let left = (0..50).filter(|number| cache.get(&large, &key(*number)).is_some());
        assert_eq!(left.collect::<Vec<_>>(), [0, 44, 45, 46, 47, 48, 49]);
        // As the other one comes to have more, this one's share shrinks to a half.
        for number in 1..8 {
            cache.put(&small, key(number), &response(1000));
        }
        let count = |tenant| (0..50).filter(|number| cache.get(tenant, &key(*number)).is_some()).count();
        assert_eq!((count(&small), count(&large)), (4, 4));
    }

    #[test]
    fn what_would_take_a_quarter_is_not_kept_and_with_no_room_nothing_is() {
        let cache = ResponseCache::new(8192);
        let key = Key::new(&Digest::of(b"model"), &request());
        cache.put(&tenant("one"), key, &response(2048));
        assert_eq!(cache.taken(), (0, 0));
        let off = ResponseCache::new(0);
        off.put(&tenant("one"), key, &response(0));
        assert!(!off.is_on() && off.taken() == (0, 0));
    }
}
