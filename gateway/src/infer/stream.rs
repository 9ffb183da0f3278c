//! The part of the road on which a request gets several responses: each is made while the one before is sent.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    admit::{Permit, Reservation, Seat},
    consumption::Consumption,
    deadline::RunDeadline,
    encode::{self, Encoded, Generated, grpc::Call},
    error::Problem,
    execute::{BoxFuture, Responses},
    limits::Quota,
    meter::{Station, Usage},
    name::TenantName,
    reply::Reply,
    repository::Model,
    tensor::{InferRequest, InferResponse},
};

use super::{Answer, Arrived, Gateway, Received, Terms, refused, run, turn, within_quota, written};

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

/// A run that may give responses while it goes on, and goes on whether or not anybody asks for them.
struct Running {
    task: Task,
    given: mpsc::Receiver<Given>,
    client: Arc<Client>,
    usage: Usage,
    seat: Option<Seat>,
    /// Since when the client has a response to read.
    reads_since: Option<Instant>,
}

/// Stops when this is dropped.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A response on its way from the run to its client, with its place in the budget, and whether it is what the run has returned.
type Given = Result<(InferResponse, Reservation, bool), Problem>;

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}

impl Answers {
    /// Waits for a place among the running, and begins.
    pub(super) async fn begin(
        gateway: &Arc<Gateway>,
        arrived: Arrived,
        mut usage: Usage,
        form: Form,
    ) -> Result<Self, Problem> {
        let Arrived { model, quota, received: Received { decoded, reservation, deadline }, seat } = arrived;
        let permit = match turn(gateway, &model, &quota, deadline, &mut usage).await {
            Ok(permit) => Arc::new(permit),
            Err(problem) => return Err(refused(gateway, problem, usage)),
        };
        let id = decoded.reply.id.clone().unwrap_or_default();
        let deadline = RunDeadline::movable(model.limits.within(deadline), gateway.limits.listen.stream_wait);
        let (sender, given) = mpsc::channel(1);
        let client = Arc::new(Client {
            gateway: Arc::clone(gateway),
            model,
            quota,
            tenant: usage.tenant().clone(),
            reply: decoded.reply,
            form,
            permit: Mutex::new(Some(Arc::clone(&permit))),
            reservation: Mutex::new(reservation),
            sender,
            has_some: AtomicBool::new(false),
        });
        let run = goes_on(Arc::clone(&client), decoded.request, deadline, usage.consumed(), permit);
        let task = Task(tokio::spawn(run));
        let running = Running { task, given, client, usage, seat, reads_since: None };
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
            Ok((response, reservation, true)) => return self.last(response, reservation),
            Ok((response, reservation, false)) => running.client.written(response, reservation, false),
            Err(problem) => Err(problem),
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

    /// What the run has returned. After others, a response without outputs is none.
    fn last(&mut self, response: InferResponse, reservation: Reservation) -> Option<Result<Answer, Problem>> {
        let Running { client, mut usage, seat, .. } = self.running.take()?;
        usage.passed(Station::Run);
        let is_none = response.outputs.is_empty() && client.has_some.load(Ordering::Relaxed);
        if is_none && !client.reply.tells_end {
            usage.succeeded(0);
            return None;
        }
        let last = client.written(response, reservation, true);
        usage.passed(Station::Encode);
        Some(match last {
            Ok((encoded, reservation)) => {
                usage.succeeded(encoded.length());
                Ok(Answer { encoded, held: (reservation, seat), usage: Some(usage) })
            }
            Err(problem) => Err(refused(&self.gateway, problem, usage)),
        })
    }
}

impl Running {
    async fn next(&mut self) -> Given {
        let given = tokio::select! {
            biased;
            given = self.given.recv() => given,
            ended = &mut self.task.0 => match ended {
                // The last response may have come meanwhile.
                Ok(()) => self.given.try_recv().ok(),
                Err(error) => return Err(Problem::internal(error.to_string())),
            },
        };
        given.unwrap_or_else(|| Err(Problem::internal("the run has ended without a word".to_owned())))
    }
}

/// Runs a request to its end, whether or not its client reads: what it then holds is what it has returned.
async fn goes_on(
    client: Arc<Client>,
    request: InferRequest,
    deadline: RunDeadline,
    consumed: Arc<Consumption>,
    permit: Arc<Permit>,
) {
    let Client { gateway, model, quota, tenant, .. } = &*client;
    let responses = Some(Arc::clone(&client) as Arc<dyn Responses>);
    let terms = Terms { quota, deadline, tenant, consumed, permit: &permit, responses };
    let ended = run(gateway, model, request, terms).await;
    // The run had the request's bytes until now.
    lock(&client.reservation).shrink_to(0);
    drop((lock(&client.permit).take(), permit));
    let given = ended.and_then(|response| client.reserved(response, true));
    // Without a receiver the task is about to be dropped.
    let _ = client.sender.send(given).await;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The client of a run, and what the run has for its sake.
struct Client {
    gateway: Arc<Gateway>,
    model: Arc<Model>,
    quota: Quota,
    tenant: TenantName,
    reply: Reply,
    form: Form,
    /// None once the run has ended.
    permit: Mutex<Option<Arc<Permit>>>,
    /// Of the request. Those of its responses belong to it.
    reservation: Mutex<Reservation>,
    sender: mpsc::Sender<Given>,
    /// It was given a response.
    has_some: AtomicBool,
}

impl Client {
    /// A response with its place in the budget, which it has until it is sent.
    fn reserved(&self, response: InferResponse, last: bool) -> Given {
        let mut reservation = lock(&self.reservation).another();
        reservation.grow(response.bytes())?;
        Ok((response, reservation, last))
    }

    fn written(
        &self,
        response: InferResponse,
        mut reservation: Reservation,
        last: bool,
    ) -> Result<(Encoded, Reservation), Problem> {
        let (name, version) = (self.model.name.as_str(), self.model.version.as_str());
        let form = self.form;
        let weight = |response: &InferResponse, reply: &Reply| match form {
            Form::Events => encode::weight(response, reply, None),
            Form::Messages => 0,
        };
        let encoded =
            written(&self.model, &self.quota, response, &self.reply, weight, |response, reply| match form {
                Form::Events => {
                    let non_finite = self.gateway.non_finite;
                    encode::generate(name, version, response, reply, Generated::Event, non_finite)
                }
                Form::Messages => encode::grpc::infer(name, version, response, reply, Call::Stream { last }),
            })?;
        reservation.resize(encoded.length())?;
        Ok((encoded, reservation))
    }

    /// Whether the run waits for this client.
    fn keeps_waiting(&self, waits: bool, deadline: &RunDeadline) {
        if waits {
            deadline.wait();
        } else {
            deadline.go_on();
        }
        if let Some(permit) = &*lock(&self.permit) {
            permit.waits(waits);
        }
    }
}

impl Responses for Client {
    fn take<'a>(&'a self, response: InferResponse, deadline: &'a RunDeadline) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.has_some.store(true, Ordering::Relaxed);
            let within = within_quota(&self.quota, &response).map_err(Problem::from);
            let given = within.and_then(|()| self.reserved(response, false));
            let failed = given.is_err();
            // There is room: the last one was waited for until it was taken, as this one is below.
            let sent = self.sender.send(given).await;
            self.keeps_waiting(true, deadline);
            if failed || sent.is_err() || self.sender.reserve().await.is_err() {
                // Nothing is taken any more: whoever polls this is about to drop it.
                std::future::pending::<()>().await;
            }
            self.keeps_waiting(false, deadline);
        })
    }
}
