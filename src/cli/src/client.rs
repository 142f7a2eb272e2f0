use crate::{Failure, config::Config, failure::chain};
use api::v1::{
    ApplyRequest, BundleId, BundlePart, BundleStored, CordonRequest, DeleteRequest, DeleteVolumesRequest,
    Done, ForgetRequest, GetRequest, LogChunk, LogsRequest, MaintainRequest, PlannerTables, ResizeRequest,
    ScaleRequest, Snapshot, UpdateRequest, cluster_client::ClusterClient,
};
use futures_util::Stream;
use model::Span;
use std::{error::Error, future::Future, path::PathBuf, time::Duration};
use tonic::{
    Code, Response, Status, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// A module that is switched on accepts TCP at once, however slow its programs are.
const TCP_LIMIT: Duration = Duration::from_secs(5);
/// A snapshot holds every instance with its decision.
const MESSAGE_LIMIT: usize = 64 << 20;

/// The cluster's server, over mutually authenticated TLS.
pub(crate) struct Server {
    config: Config,
    limit: Span,
    cluster: ClusterClient<Channel>,
}

impl Server {
    pub(crate) async fn connect(
        server: Option<&str>,
        file: Option<PathBuf>,
        limit: Span,
    ) -> Result<Self, Failure> {
        let config = Config::load(server, file)?;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&config.ca))
            .identity(Identity::from_pem(&config.certificate, &config.key))
            .domain_name(api::SERVER_NAME);
        let endpoint = Endpoint::from_shared(format!("https://{}", config.server))
            .map_err(|e| Failure::Usage(format!("{}: {}; write HOST:PORT", config.server, chain(&e))))?
            .connect_timeout(TCP_LIMIT.min(limit.duration()))
            // A watch must notice that its server's module was cut off: nobody closes that connection.
            .http2_keep_alive_interval(TCP_LIMIT.min(limit.duration()))
            .keep_alive_timeout(limit.duration())
            .tls_config(tls)
            .map_err(|e| Failure::Config {
                file: config.file.clone(),
                reason: format!("ca, certificate or key: {}; ask for new ones", chain(&e)),
            })?;
        let channel = match tokio::time::timeout(limit.duration(), endpoint.connect()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(unreachable(&config, &chain(&error))),
            Err(_) => return Err(unreachable(&config, &format!("no connection within {limit}"))),
        };
        let cluster = ClusterClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT);
        Ok(Self { config, limit, cluster })
    }

    /// For people: where it is.
    pub(crate) fn address(&self) -> &str {
        &self.config.server
    }

    pub(crate) async fn apply(&self, request: ApplyRequest) -> Result<Vec<String>, Failure> {
        self.done(self.cluster.clone().apply(request)).await
    }

    pub(crate) async fn delete(&self, request: DeleteRequest) -> Result<Vec<String>, Failure> {
        self.done(self.cluster.clone().delete(request)).await
    }

    pub(crate) async fn delete_volumes(&self, request: DeleteVolumesRequest) -> Result<Vec<String>, Failure> {
        self.done(self.cluster.clone().delete_volumes(request)).await
    }

    pub(crate) async fn scale(&self, request: ScaleRequest) -> Result<Vec<String>, Failure> {
        self.done(self.cluster.clone().scale(request)).await
    }

    pub(crate) async fn cordon(&self, request: CordonRequest) -> Result<Vec<String>, Failure> {
        self.done(self.cluster.clone().cordon(request)).await
    }

    pub(crate) async fn maintain(&self, request: MaintainRequest) -> Result<Vec<String>, Failure> {
        self.done(self.cluster.clone().maintain(request)).await
    }

    pub(crate) async fn resize(&self, request: ResizeRequest) -> Result<Vec<String>, Failure> {
        self.done(self.cluster.clone().resize(request)).await
    }

    pub(crate) async fn forget(&self, request: ForgetRequest) -> Result<Vec<String>, Failure> {
        self.done(self.cluster.clone().forget(request)).await
    }

    pub(crate) async fn update(&self, request: UpdateRequest) -> Result<Vec<String>, Failure> {
        self.done(self.cluster.clone().update(request)).await
    }

    pub(crate) async fn bundle_at(&self, bundle: BundleId) -> Result<BundleStored, Failure> {
        self.answer(self.cluster.clone().bundle_at(bundle)).await
    }

    /// However long it takes: a link that is cut is noticed by itself.
    pub(crate) async fn put_bundle(
        &self,
        parts: impl Stream<Item = BundlePart> + Send + 'static,
    ) -> Result<BundleStored, Failure> {
        let answer = self.cluster.clone().put_bundle(parts).await;
        answer.map(Response::into_inner).map_err(|status| self.failure(&status))
    }

    pub(crate) async fn tables(&self) -> Result<PlannerTables, Failure> {
        self.answer(self.cluster.clone().tables(GetRequest {})).await
    }

    pub(crate) async fn snapshot(&self) -> Result<Snapshot, Failure> {
        self.answer(self.cluster.clone().get(GetRequest {})).await
    }

    pub(crate) async fn watch(&self) -> Result<Streaming<Snapshot>, Failure> {
        self.answer(self.cluster.clone().watch(GetRequest {})).await
    }

    pub(crate) async fn logs(&self, request: LogsRequest) -> Result<Streaming<LogChunk>, Failure> {
        self.answer(self.cluster.clone().logs(request)).await
    }

    /// The next message of a stream, however long it takes; none at its end.
    pub(crate) async fn next<T>(&self, stream: &mut Streaming<T>) -> Result<Option<T>, Failure> {
        stream.message().await.map_err(|status| match refusal(&status) {
            Some(reason) => Failure::Refused(reason),
            None => self.gone(&status.source().map_or_else(|| said(&status), chain)),
        })
    }

    /// A watch never ends by itself.
    pub(crate) fn watch_ended(&self) -> Failure {
        self.gone("it ended the watch")
    }

    async fn done(
        &self,
        call: impl Future<Output = Result<Response<Done>, Status>>,
    ) -> Result<Vec<String>, Failure> {
        Ok(self.answer(call).await?.lines)
    }

    async fn answer<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Failure> {
        match tokio::time::timeout(self.limit.duration(), call).await {
            Ok(answer) => answer.map(Response::into_inner).map_err(|status| self.failure(&status)),
            Err(_) => {
                Err(unreachable(&self.config, &format!("no answer within {}; it may still come", self.limit)))
            }
        }
    }

    fn failure(&self, status: &Status) -> Failure {
        match (refusal(status), status.source()) {
            (Some(reason), _) => Failure::Refused(reason),
            (None, Some(source)) => broken_off(&self.config, &chain(source)),
            (None, None) => self.gone(&said(status)),
        }
    }

    /// It was there, and may be again.
    fn gone(&self, why: &str) -> Failure {
        Failure::Unreachable { server: self.config.server.clone(), reason: format!("{why}; try again") }
    }
}

/// What the server said, if it was the server that spoke: a status with a source was made on this side.
fn refusal(status: &Status) -> Option<String> {
    if status.code() == Code::Unavailable || status.source().is_some() {
        return None;
    }
    Some(said(status))
}

fn said(status: &Status) -> String {
    let message = status.message().split_whitespace().collect::<Vec<_>>().join(" ");
    if message.is_empty() { format!("the server refused: {}", status.code()) } else { message }
}

/// Before there was a connection.
fn unreachable(config: &Config, why: &str) -> Failure {
    let lower = why.to_lowercase();
    let remedy = if ["certificate", "alert", "tls"].iter().any(|word| lower.contains(word)) {
        check_papers(config)
    } else if lower.contains("dns") || lower.contains("lookup") {
        "check the host's name in --server or in the configuration".to_owned()
    } else {
        "check that spacecloudd serves there".to_owned()
    };
    Failure::Unreachable { server: config.server.clone(), reason: format!("{why}; {remedy}") }
}

/// After there was one. A server that refuses our certificate may do no more than hang up: in TLS 1.3 our side of
/// the handshake is over before it looks.
fn broken_off(config: &Config, why: &str) -> Failure {
    let reason = format!("{why}; try again, and if it stays so {}", check_papers(config));
    Failure::Unreachable { server: config.server.clone(), reason }
}

fn check_papers(config: &Config) -> String {
    format!("check ca, certificate and key in {}", config.file.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_server_can_refuse() {
        assert_eq!(refusal(&Status::not_found("no app\nx")), Some("no app x".to_owned()));
        assert_eq!(refusal(&Status::unavailable("starting")), None);
        assert_eq!(refusal(&Status::from_error(Box::new(std::io::Error::other("broken pipe")))), None);
        assert!(refusal(&Status::new(Code::Internal, "")).unwrap().starts_with("the server refused: "));
    }
}
