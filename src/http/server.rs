//! Listens on the configured address and serves HTTP/1.1 on every connection, over TLS if there is a certificate.
//!
//! actix-web's own `HttpServer` is not used because it does not allow the connection to be wrapped; see
//! `client_stream`.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_http::HttpService;
use actix_http::error::DispatchError;
use actix_server::{Server, ServerBuilder};
use actix_service::{IntoServiceFactory, ServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::body::MessageBody;
use actix_web::dev::AppConfig;
use actix_web::http::KeepAlive;
use actix_web::rt::net::TcpStream;
use actix_web::{Error, HttpResponse};
use futures_util::future::{Either, ready};
use socket2::{Domain, Protocol, Socket, Type};

use super::client_socket::ClientSocket;
use super::client_stream::ClientStream;
use super::places::{Places, raise_open_files};
use super::transport::Transport;
use crate::actors::certificate_keeper::CurrentTls;
use crate::config::Config;

/// How long an idle client connection is kept.
const CLIENT_KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long connections may take to close after the last answer, in seconds.
const CLOSE_SECS: u64 = 2;

/// The most connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 2048;

/// Serves the application that `app` makes for each worker, over TLS if `tls` has settings for it. Returns the address that it listens on, and the server.
///
/// # Errors
/// If the address cannot be listened on.
pub fn serve<F, I, S, B>(config: &Config, tls: Option<CurrentTls>, app: F) -> io::Result<(SocketAddr, Server)>
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, actix_http::Request>,
    S: ServiceFactory<actix_http::Request, Config = AppConfig, Error = Error> + 'static,
    S::InitError: fmt::Debug,
    S::Response: Into<actix_http::Response<B>> + 'static,
    S::Future: 'static,
    <S::Service as actix_service::Service<actix_http::Request>>::Future: 'static,
    B: MessageBody + 'static,
{
    let workers = config.server.workers();
    let places = Places::new(raise_open_files(), workers);
    let listener = listen(config.server.bind)?;
    let address = listener.local_addr()?;
    let builder = ServerBuilder::default();
    let stopping = builder.graceful_shutdown_signal();
    let (upstream, places_max) = (config.upstream.clone(), places.max());
    let service = move || {
        let stopping = stopping.clone();
        let app = app().into_factory().map_err(|error: Error| HttpResponse::from_error(error));
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .keep_alive(KeepAlive::Timeout(CLIENT_KEEP_ALIVE))
            // `ClientStream` limits the time of a head. actix would limit that of a connection's first head only.
            .client_request_timeout(Duration::ZERO)
            .on_connect_ext(|stream: &ClientStream, data| {
                data.insert(stream.progress());
            })
            .h1_allow_half_closed(false)
            .local_addr(address)
            .h1(map_config(app, |()| AppConfig::default()));
        let (tls, upstream, places): (_, _, Arc<Places>) = (tls.clone(), upstream.clone(), places.clone());
        let accept = move |tcp: TcpStream| {
            let (peer, pause_max) = (tcp.peer_addr().ok(), upstream.idle_timeout);
            let socket = ClientSocket::new(tcp, &upstream, &places);
            let transport = match &tls {
                None => Either::Left(ready(Ok(Transport::Plain(socket)))),
                // Boxed, so that plain connections need no memory for it.
                Some(tls) => Either::Right(Box::pin(Transport::tls(socket, tls.load_full(), pause_max))),
            };
            async move { Ok::<_, DispatchError>((ClientStream::new(transport.await?, pause_max), peer)) }
        };
        // actix itself answers a request that it cannot parse, with 400 or 431 and no body, before this error comes here.
        fn_service(accept).and_then(http).map_err(|error| {
            log::debug!("connection ended error=\"{error}\"");
            error
        })
    };
    let server = builder
        .workers(workers)
        .max_concurrent_connections(places_max / workers)
        .disable_signals()
        .shutdown_timeout(CLOSE_SECS)
        .listen("leaseway", listener, service)?
        .run();
    Ok((address, server))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted Leaseway must not wait until the kernel has forgotten the connections of the previous process.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
