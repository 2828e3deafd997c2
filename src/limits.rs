//! Limits that the system sets a process.

#[cfg(not(unix))]
/// What is assumed where the system does not say.
const USUAL: usize = 256;

/// Files that the process may have open at a time.
pub fn open_files() -> usize {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit};
        // No limit is none.
        getrlimit(Resource::Nofile)
            .current
            .map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
    }
    #[cfg(not(unix))]
    USUAL
}

/// Raises the number of files that the process may have open to what its user may, as far as the system lets it.
#[cfg(feature = "cli")]
pub fn raise_open_files() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        // Some systems name a maximum that they refuse.
        for limit in [maximum, Some(10_240), Some(4096)] {
            if setrlimit(Resource::Nofile, Rlimit { current: limit, maximum }).is_ok() {
                break;
            }
        }
    }
}
