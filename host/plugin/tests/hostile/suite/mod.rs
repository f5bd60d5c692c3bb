//! Components that want to harm their host, as one table: what each is, how it is made, and where and with which words it
//! has to end. Tests of the plugin host and of whole servers run the same table.
//!
//! All of it is made here, from text and bytes, in milliseconds; nothing is checked in.

mod bytes;
mod guest;
mod table;

#[allow(unused_imports, reason = "not every test makes components of its own")]
pub use guest::{Body, IDLE, component};
pub use table::all;

/// Which world a component targets, or pretends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum World {
    Scheduler,
    IdleChecker,
    Hook,
}

/// Where a component ends: a step in the life of its revision, or the call that it is served with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// Its outside is looked at, before anything is compiled.
    Verified,
    /// It is compiled, in a child process.
    Compiled,
    /// It starts and describes itself.
    SelfTested,
    /// It looks at the configuration that it is to be bound with.
    CheckConfig,
    /// It is called: the name of the export.
    Called(&'static str),
    /// It doesn't: what it does is bounded, and harms nobody.
    Nowhere,
}

/// A hostile component and its end.
#[allow(dead_code, reason = "not every test holds it against all of this")]
pub struct Case {
    /// Unique in the table; what the component calls itself, if it comes to that.
    pub name: &'static str,
    /// Its world.
    pub world: World,
    /// Where it ends.
    pub ends: Ends,
    /// The kind of the failure, as metrics and records name it; empty where it doesn't fail.
    pub kind: &'static str,
    /// Words that its reason has.
    pub reason: &'static str,
    make: Make,
}

/// How a component is made.
enum Make {
    /// A guest that misbehaves in one of its functions.
    Guest(Box<guest::Body>),
    /// Anything else.
    Bytes(Box<dyn Fn() -> Vec<u8> + Send + Sync>),
}

impl Case {
    /// The component.
    pub fn wasm(&self) -> Vec<u8> {
        match &self.make {
            Make::Guest(body) => component(self.name, body),
            Make::Bytes(make) => make(),
        }
    }

    /// The same component, which behaves as long as its configuration is empty: so it passes every test of a host that
    /// tries it out first. None when it doesn't end in a call that it is served with.
    #[allow(dead_code, reason = "for tests of whole servers")]
    pub fn in_disguise(&self) -> Option<Vec<u8>> {
        match (&self.make, self.ends) {
            (Make::Guest(body), Ends::Called(_)) => {
                Some(component(self.name, &guest::Body { disguised: true, schema: r#"{"type":"object"}"#, ..**body }))
            }
            _ => None,
        }
    }
}

/// The case of that name.
#[allow(dead_code, reason = "not every test picks cases by name")]
pub fn case(name: &str) -> Case {
    all().into_iter().find(|case| case.name == name).unwrap_or_else(|| panic!("the table has no `{name}`"))
}
