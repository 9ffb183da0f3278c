//! The part of the road on which a request gets several responses: each is made while the one before is sent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tokio::sync::mpsc;

use crate::{
    admit::{Permit, Reservation, Seat},
    deadline::RunDeadline,
    encode::{self, Encoded, Generated, grpc::Call},
    error::Problem,
    execute::{BoxFuture, Responses},
    limits::Quota,
    meter::{Station, Usage},
    name::TenantName,
    reply::Reply,
    repository::Model,
    tensor::InferResponse,
};

use super::{
    Answer, Arrived, Gateway, Received, Terms, refused, run, tensor_bytes, turn, within_quota, written,
};

/// What the responses of a stream are written as.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// Events of a `text/event-stream`.
    Events,
    /// Messages of gRPC.
    Messages,
}

/// The responses to one request, in order. Dropping it stops the run.
pub struct Answers {
    gateway: Arc<Gateway>,
    /// What the client calls its request; empty if it has no name.
    id: String,
    running: Option<Running>,
}

/// A run that may give responses while it goes on.
struct Running {
    run: BoxFuture<'static, Result<InferResponse, Problem>>,
    /// What it has given ahead of its last response.
    ahead: mpsc::Receiver<Given>,
    ended: Option<Result<InferResponse, Problem>>,
    client: Arc<Client>,
    usage: Usage,
    seat: Option<Seat>,
    /// Of the request, until the run has given something.
    reservation: Option<Reservation>,
    /// Since when the client has a response to read.
    reads_since: Option<Instant>,
}

/// A response on its way from the run to its client, with its place in the budget.
type Given = Result<(InferResponse, Reservation), Problem>;

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}

impl Answers {
    /// Waits for a place among the running. The run begins when its first response is asked for.
    pub(super) async fn begin(
        gateway: &Arc<Gateway>,
        arrived: Arrived,
        mut usage: Usage,
        form: Form,
    ) -> Result<Self, Problem> {
        let Arrived { model, quota, received: Received { decoded, reservation, deadline }, seat } = arrived;
        let permit = match turn(gateway, &model, &quota, deadline, &mut usage).await {
            Ok(permit) => permit,
            Err(problem) => return Err(refused(gateway, problem, usage)),
        };
        let id = decoded.reply.id.clone().unwrap_or_default();
        let deadline = RunDeadline::movable(model.limits.within(deadline), gateway.limits.listen.stream_wait);
        let (sender, ahead) = mpsc::channel(1);
        let client = Arc::new(Client {
            gateway: Arc::clone(gateway),
            model,
            quota,
            tenant: usage.tenant().clone(),
            reply: decoded.reply,
            form,
            permit,
            sender,
            has_some: AtomicBool::new(false),
        });
        let (runs_for, consumed) = (Arc::clone(&client), usage.consumed());
        let run = async move {
            let Client { gateway, model, quota, tenant, permit, .. } = &*runs_for;
            let responses = Some(Arc::clone(&runs_for) as Arc<dyn Responses>);
            let terms = Terms { quota, deadline, tenant, consumed, permit, responses };
            run(gateway, model, decoded.request, terms).await
        };
        let running = Running {
            run: Box::pin(run),
            ahead,
            ended: None,
            client,
            usage,
            seat,
            reservation: Some(reservation),
            reads_since: None,
        };
        Ok(Self { gateway: Arc::clone(gateway), id, running: Some(running) })
    }

    /// What the client calls its request; empty if it has no name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Waits for the next response. After a problem there is none.
    pub async fn next(&mut self) -> Option<Result<Answer, Problem>> {
        let running = self.running.as_mut()?;
        if let Some(since) = running.reads_since.take() {
            running.usage.client_took(since.elapsed());
        }
        let given = match running.next().await {
            Some(given) => given.and_then(|(response, reservation)| {
                running.reservation = None;
                running.client.written(response, reservation, false)
            }),
            None => return self.last(),
        };
        match given {
            Ok((encoded, reservation)) => {
                running.usage.sent(encoded.length());
                running.reads_since = Some(Instant::now());
                Some(Ok(Answer { encoded, held: (reservation, None), usage: None }))
            }
            Err(problem) => {
                let usage = self.running.take()?.usage;
                Some(Err(refused(&self.gateway, problem, usage)))
            }
        }
    }

    fn last(&mut self) -> Option<Result<Answer, Problem>> {
        let Running { ended, client, mut usage, seat, .. } = self.running.take()?;
        usage.passed(Station::Run);
        let last = ended?.and_then(|response| client.last(response));
        usage.passed(Station::Encode);
        match last {
            Ok(Some((encoded, reservation))) => {
                usage.succeeded(encoded.length());
                Some(Ok(Answer { encoded, held: (reservation, seat), usage: Some(usage) }))
            }
            Ok(None) => {
                usage.succeeded(0);
                None
            }
            Err(problem) => Some(Err(refused(&self.gateway, problem, usage))),
        }
    }
}

impl Running {
    /// The next response ahead of the last one; none when the run has ended.
    async fn next(&mut self) -> Option<Given> {
        while self.ended.is_none() {
            tokio::select! {
                biased;
                // It may end early, however much there is to read.
                ended = &mut self.run => self.ended = Some(ended),
                Some(given) = self.ahead.recv() => return Some(given),
            }
        }
        self.ahead.try_recv().ok()
    }
}

/// The client of a run, and what the run has for its sake.
struct Client {
    gateway: Arc<Gateway>,
    model: Arc<Model>,
    quota: Quota,
    tenant: TenantName,
    reply: Reply,
    form: Form,
    permit: Permit,
    sender: mpsc::Sender<Given>,
    /// It was given a response.
    has_some: AtomicBool,
}

impl Client {
    /// A place in the budget, for as long as a response is not sent.
    fn reserved(&self, bytes: usize) -> Result<Reservation, Problem> {
        let mut reservation = self.gateway.admission.reservation(&self.tenant, &self.quota);
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    fn written(
        &self,
        response: InferResponse,
        mut reservation: Reservation,
        last: bool,
    ) -> Result<(Encoded, Reservation), Problem> {
        let (name, version) = (self.model.name.as_str(), self.model.version.as_str());
        let encoded =
            written(&self.model, &self.quota, response, &self.reply, |response, reply| match self.form {
                Form::Events => {
                    let non_finite = self.gateway.non_finite;
                    encode::generate(name, version, response, reply, Generated::Event, non_finite)
                }
                Form::Messages => encode::grpc::infer(name, version, response, reply, Call::Stream { last }),
            })?;
        reservation.resize(encoded.length())?;
        Ok((encoded, reservation))
    }

    /// What a run came to that has returned `response`.
    fn last(&self, response: InferResponse) -> Result<Option<(Encoded, Reservation)>, Problem> {
        let is_none = response.outputs.is_empty() && self.has_some.load(Ordering::Relaxed);
        if is_none && !self.reply.tells_end {
            return Ok(None);
        }
        let reservation = self.reserved(0)?;
        self.written(response, reservation, true).map(Some)
    }

    fn given(&self, response: InferResponse) -> Given {
        within_quota(&self.quota, &response)?;
        let reservation = self.reserved(tensor_bytes(&response.outputs))?;
        Ok((response, reservation))
    }
}

impl Responses for Client {
    fn take<'a>(&'a self, response: InferResponse, deadline: &'a RunDeadline) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.has_some.store(true, Ordering::Relaxed);
            let given = self.given(response);
            let failed = given.is_err();
            // What was given before is taken by now: there is room.
            let sent = self.sender.send(given).await;
            deadline.wait();
            self.permit.waits();
            if failed || sent.is_err() || self.sender.reserve().await.is_err() {
                // Nothing is taken any more: whoever polls this is about to drop it.
                std::future::pending::<()>().await;
            }
            deadline.go_on();
        })
    }
}
