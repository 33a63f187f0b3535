//! CertificateKeeper: owns the certificate of the server. It reads the files again when they change and when it is asked to, and
//! publishes what it has read for new connections.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr, Arbiter, AsyncContext, Context, Handler, Message};
use arc_swap::ArcSwap;
use rustls::ServerConfig;

use crate::certificate::{self, CertificateError, Marks, Watch};
use crate::config::TlsConfig;

/// How often the keeper looks whether the files have changed. A change is read at the second look that sees it.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The TLS settings for new connections. Running connections keep theirs.
pub type CurrentTls = Arc<ArcSwap<ServerConfig>>;

/// The owner of the certificate.
pub struct CertificateKeeper {
    files: TlsConfig,
    watch: Watch,
    current: CurrentTls,
}

impl CertificateKeeper {
    /// Reads the certificate for the first time.
    ///
    /// # Errors
    /// If the certificate or its key cannot be used.
    pub fn new(files: TlsConfig) -> Result<Self, CertificateError> {
        let watch = Watch::new(Marks::of(&files));
        let current = Arc::new(ArcSwap::new(certificate::read(&files)?));
        Ok(Self { files, watch, current })
    }

    /// Returns the settings that the keeper exchanges.
    pub fn current(&self) -> CurrentTls {
        self.current.clone()
    }

    /// Starts the keeper on a thread of its own, so that nobody waits for the files.
    pub fn start(self) -> Addr<Self> {
        Self::start_in_arbiter(&Arbiter::new().handle(), |_| self)
    }

    /// Reads the files. If they cannot be used, the previous certificate stays in use.
    fn read(&mut self) {
        // The files may change while they are read: the next look then differs from this one.
        self.watch = Watch::new(Marks::of(&self.files));
        match certificate::read(&self.files) {
            Ok(config) => {
                self.current.store(config);
                log::info!("certificate read cert_file=\"{}\"", self.files.cert_file.display());
            }
            Err(error) => log::error!("certificate not read, the previous one stays in use: {error}"),
        }
    }
}

impl Actor for CertificateKeeper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.run_interval(LOOK_INTERVAL, |keeper, _| {
            if keeper.watch.look(Marks::of(&keeper.files)) {
                keeper.read();
            }
        });
    }
}

/// Reads the certificate again, from these files from now on.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ReadCertificate {
    /// The files; `None`: the same as before.
    pub files: Option<TlsConfig>,
}

impl Handler<ReadCertificate> for CertificateKeeper {
    type Result = ();

    fn handle(&mut self, ReadCertificate { files }: ReadCertificate, _: &mut Context<Self>) {
        if let Some(files) = files {
            self.files = files;
        }
        self.read();
    }
}
