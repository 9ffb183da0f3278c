//! What a worker gives up before it reads its job, beside what bounds it: networks, the system's shared memory and queues,
//! capabilities, and its place when memory runs out.
//!
//! It keeps its user and what that user can read and write: seclusion makes a compiler that was taken over less useful, it does
//! not contain it.

use std::{fs, io};

use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags, set_capabilities};

/// Leaves all of it; one thread must be all that there is. Says what the machine does not let it leave.
///
/// # Errors
/// If it keeps capabilities, which any process may drop.
pub(in crate::execute) fn leave() -> io::Result<Option<String>> {
    // Before the namespace: there, the file is root's. The kernel takes the worker before the gateway.
    let oom = fs::write("/proc/self/oom_score_adj", "1000");
    let namespaces = leave_namespaces();
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    let failed = |what: &str, error: &dyn std::fmt::Display| Some(format!("{what}: {error}"));
    Ok(match (namespaces, oom) {
        (Err(error), _) => failed(
            "no namespaces of their own, so they can reach the network (user.max_user_namespaces, or a container's profile)",
            &error,
        ),
        (_, Err(error)) => {
            failed("they are not the first to go when memory runs out (oom_score_adj)", &error)
        }
        _ => None,
    })
}

#[expect(deprecated, reason = "the other form is unsafe for the sake of FILES, which is not among these")]
fn leave_namespaces() -> rustix::io::Result<()> {
    rustix::thread::unshare(
        UnshareFlags::NEWUSER | UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS,
    )
}
