//! A descriptor that is kept for the operator: a process whose users have taken all of its files still answers.

#[cfg(unix)]
use std::fs::File;

/// One open file, of no use but that it can be closed when another one is needed. Elsewhere than on Unix files do not run
/// out, and it does nothing.
#[derive(Debug)]
pub(super) struct Spare {
    #[cfg(unix)]
    file: Option<File>,
}

impl Spare {
    pub(super) fn new() -> Self {
        Self {
            #[cfg(unix)]
            file: open(),
        }
    }

    /// Gives the descriptor away; false when it is given away already.
    pub(super) fn give(&mut self) -> bool {
        #[cfg(unix)]
        return self.file.take().is_some();
        #[cfg(not(unix))]
        false
    }

    /// Takes one back, if there is one again.
    pub(super) fn take_back(&mut self) {
        #[cfg(unix)]
        if self.file.is_none() {
            self.file = open();
        }
    }
}

#[cfg(unix)]
fn open() -> Option<File> {
    File::open("/dev/null").ok()
}
