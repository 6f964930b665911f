//! Settings that change while the relay runs (SIGHUP): who may come in, how many, and how long they may stay at the end.
//! All else is bound to ports, files and sessions that are open, and takes a restart. (A certificate is followed by
//! itself, see [`crate::tls::Current`].)

use crate::admission::Admission;
use crate::admission::source::SourceError;
use crate::drain::Drain;
use crate::edge::Settings;

/// Changes the settings of a running edge.
pub struct Reload {
    now: Settings,
    admission: Admission,
    drain: Drain,
}

impl Reload {
    /// Of an edge that runs with these.
    pub(crate) fn new(now: Settings, admission: Admission, drain: Drain) -> Self {
        Self { now, admission, drain }
    }

    /// Takes what can be taken of `new`; gives the options whose change takes a restart.
    ///
    /// # Errors
    /// Where keys cannot be read; then everything stays as it was.
    pub async fn take(&mut self, new: Settings) -> Result<Vec<&'static str>, SourceError> {
        self.admission.reload(new.admission.clone(), new.token.as_deref()).await?;
        self.drain.allow(new.drain);
        let now = &self.now;
        let fixed = [
            ("--listen", new.listen != now.listen),
            ("--http", new.http != now.http),
            ("--https", new.https != now.https),
            ("--cert and --key", new.certificate != now.certificate),
            ("--state", new.state != now.state),
            ("--player", new.player != now.player),
            ("--keep", new.keep != now.keep),
            ("--upstream", new.upstream != now.upstream),
        ];
        Ok(fixed.into_iter().filter_map(|(option, changed)| changed.then_some(option)).collect())
    }
}
