//! Which names and addresses of endpoints are taken. A name and an address belong to one endpoint alone.
//!
//! The name and address of a change are reserved while the change is being saved, and registered when it is saved.
//! Every look-up takes constant time, whatever the number of endpoints. There are as many claims as endpoints, and as
//! many reservations as changes that are being saved.

use std::collections::HashMap;

use super::endpoint::EndpointDefinition;
use super::ids::EndpointId;

/// The names and addresses of the registered endpoints, and of changes that are being saved.
#[derive(Debug, Default)]
pub struct Directory {
    registered: HashMap<EndpointId, Claim>,
    reserved: HashMap<EndpointId, Claim>,
    by_name: HashMap<String, EndpointId>,
    by_root: HashMap<String, EndpointId>,
}

/// The name and address that belong to one endpoint.
#[derive(Debug)]
struct Claim {
    name: String,
    root_url: String,
}

/// Why a definition cannot be reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Another endpoint has the name.
    Name,
    /// The endpoint `owner` has the address.
    Address {
        /// The name of the other endpoint.
        owner: String,
    },
}

impl Directory {
    /// Registers the definition of an endpoint, which replaces an older one, and ends the endpoint's reservation.
    pub fn register(&mut self, id: EndpointId, definition: &EndpointDefinition) {
        self.remove(id);
        let claim = Claim::of(definition);
        self.claim(id, &claim);
        self.registered.insert(id, claim);
    }

    /// Frees the name, the address and the reservation of an endpoint.
    pub fn remove(&mut self, id: EndpointId) {
        for claim in [self.registered.remove(&id), self.reserved.remove(&id)].into_iter().flatten() {
            self.free(id, &claim);
        }
    }

    /// Reserves the name and address of a definition until it is registered or released.
    ///
    /// # Errors
    /// If another endpoint has the name or the address.
    pub fn reserve(&mut self, id: EndpointId, definition: &EndpointDefinition) -> Result<(), Taken> {
        let claim = Claim::of(definition);
        self.check_free(Some(id), Some(&claim.name), &claim.root_url)?;
        self.claim(id, &claim);
        self.reserved.insert(id, claim);
        Ok(())
    }

    /// Checks that an endpoint may have the name and the address. `id` is `None` for a new endpoint, `name` for one that keeps
    /// its name.
    ///
    /// # Errors
    /// If another endpoint has the name or the address.
    pub fn check_free(&self, id: Option<EndpointId>, name: Option<&str>, root_url: &str) -> Result<(), Taken> {
        let other = |owner: Option<&EndpointId>| owner.copied().filter(|owner| Some(*owner) != id);
        if name.is_some_and(|name| other(self.by_name.get(name)).is_some()) {
            return Err(Taken::Name);
        }
        let Some(owner) = other(self.by_root.get(root_url)) else { return Ok(()) };
        let claims = [self.registered.get(&owner), self.reserved.get(&owner)];
        let owner = claims.into_iter().flatten().find(|known| known.root_url == root_url);
        Err(Taken::Address { owner: owner.map(|known| known.name.clone()).unwrap_or_default() })
    }

    /// Ends the reservation of an endpoint. Its registered name and address stay.
    pub fn release(&mut self, id: EndpointId) {
        let Some(claim) = self.reserved.remove(&id) else { return };
        self.free(id, &claim);
        if let Some(claim) = self.registered.remove(&id) {
            self.claim(id, &claim);
            self.registered.insert(id, claim);
        }
    }

    /// Reserves the definitions of all these endpoints together, each until it is registered or released. The endpoints
    /// may exchange names and addresses with each other.
    pub fn reserve_all(&mut self, all: &[(EndpointId, &EndpointDefinition)]) {
        for (id, definition) in all {
            let claim = Claim::of(definition);
            self.claim(*id, &claim);
            self.reserved.insert(*id, claim);
        }
    }

    /// Tells whether a change of the endpoint is being saved.
    pub fn is_reserved(&self, id: EndpointId) -> bool {
        self.reserved.contains_key(&id)
    }

    /// Tells whether any change is being saved.
    pub fn is_any_reserved(&self) -> bool {
        !self.reserved.is_empty()
    }

    fn claim(&mut self, id: EndpointId, claim: &Claim) {
        self.by_name.insert(claim.name.clone(), id);
        self.by_root.insert(claim.root_url.clone(), id);
    }

    fn free(&mut self, id: EndpointId, claim: &Claim) {
        if self.by_name.get(&claim.name) == Some(&id) {
            self.by_name.remove(&claim.name);
        }
        if self.by_root.get(&claim.root_url) == Some(&id) {
            self.by_root.remove(&claim.root_url);
        }
    }
}

impl Claim {
    fn of(definition: &EndpointDefinition) -> Self {
        Self { name: definition.name.clone(), root_url: definition.root_url() }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const A: EndpointId = EndpointId(Uuid::from_u128(1));
    const B: EndpointId = EndpointId(Uuid::from_u128(2));
    const C: EndpointId = EndpointId(Uuid::from_u128(3));

    fn definition(name: &str, base_url: &str) -> EndpointDefinition {
        EndpointDefinition::new(name, base_url)
    }

    /// A directory with the endpoint A, named `a`, at `http://a`.
    fn with_a() -> Directory {
        let mut directory = Directory::default();
        directory.register(A, &definition("a", "http://a"));
        directory
    }

    #[test]
    fn a_name_and_an_address_belong_to_one_endpoint() {
        let mut directory = with_a();
        assert_eq!(directory.reserve(B, &definition("a", "http://b")), Err(Taken::Name));
        let owner = "a".to_owned();
        assert_eq!(directory.reserve(B, &definition("b", "http://A:80/v1")), Err(Taken::Address { owner }));
        assert!(!directory.is_reserved(B), "what is refused reserves nothing");
        assert_eq!(directory.reserve(A, &definition("a", "http://a/v1")), Ok(()), "they are its own");
    }

    #[test]
    fn a_reservation_holds_the_new_name_beside_the_old_one_until_it_is_registered_or_released() {
        for is_saved in [true, false] {
            let mut directory = with_a();
            let changed = definition("new", "http://a");
            assert_eq!(directory.reserve(A, &changed), Ok(()));
            assert!(directory.is_reserved(A) && directory.is_any_reserved());
            for name in ["a", "new"] {
                assert_eq!(directory.reserve(B, &definition(name, "http://b")), Err(Taken::Name), "{name}");
            }
            if is_saved {
                directory.register(A, &changed);
            } else {
                directory.release(A);
            }
            assert!(!directory.is_any_reserved());
            let (taken, free) = if is_saved { ("new", "a") } else { ("a", "new") };
            assert_eq!(directory.reserve(B, &definition(taken, "http://b")), Err(Taken::Name));
            assert!(matches!(directory.reserve(B, &definition("b", "http://a")), Err(Taken::Address { .. })));
            assert_eq!(directory.reserve(B, &definition(free, "http://b")), Ok(()));
        }
    }

    #[test]
    fn endpoints_may_exchange_their_names_together() {
        for is_saved in [true, false] {
            let mut directory = with_a();
            directory.register(B, &definition("b", "http://b"));
            let exchanged = [(A, definition("b", "http://a")), (B, definition("a", "http://b"))];
            let all: Vec<_> = exchanged.iter().map(|(id, definition)| (*id, definition)).collect();
            directory.reserve_all(&all);
            assert!(directory.is_reserved(A) && directory.is_reserved(B));
            assert_eq!(directory.reserve(C, &definition("c", "http://c")), Ok(()));
            if is_saved {
                exchanged.iter().for_each(|(id, definition)| directory.register(*id, definition));
            }
            [A, B].into_iter().for_each(|id| directory.release(id));
            assert!(directory.is_reserved(C), "its own change is still being saved");
            let owner_of_a = if is_saved { B } else { A };
            for id in [A, B] {
                let expected = if id == owner_of_a { Ok(()) } else { Err(Taken::Name) };
                assert_eq!(directory.reserve(id, &definition("a", "http://new")), expected, "{is_saved}");
                directory.release(id);
            }
        }
    }

    #[test]
    fn a_removed_endpoint_holds_nothing() {
        let mut directory = with_a();
        assert_eq!(directory.reserve(A, &definition("a", "http://a")), Ok(()));
        directory.remove(A);
        assert!(!directory.is_any_reserved());
        assert_eq!(directory.reserve(B, &definition("a", "http://a")), Ok(()));
    }
}
