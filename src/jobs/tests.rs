use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::*;
use crate::db::PageRequest;
use crate::db::testing::database;
use crate::types::{KeyId, Role, Scope};

/// Two servers on one database. Leases are short, so that they run out within a test.
async fn two_servers() -> (Jobs, Jobs) {
    let pools = database().await;
    let lease_for = Duration::from_millis(600);
    (Jobs::new(&pools, lease_for), Jobs::new(&pools, lease_for))
}

fn new(key: &str) -> NewJob {
    let settings = json!({"gallery": key});
    let (key, requested_by) = (key.to_owned(), "test".to_owned());
    NewJob { kind: JobKind::Retrain, key, settings, requested_by, galleries: None }
}

fn scoped_to(scope: Scope) -> Caller {
    Caller::with_key(KeyId::new(), "key", Role::Admin, scope)
}

async fn submit(jobs: &Jobs, key: &str) -> Job {
    let (job, is_new) = jobs.submit(&new(key)).await.unwrap();
    assert!(is_new && job.state == JobState::Queued);
    job
}

async fn claim(jobs: &Jobs) -> Option<Lease> {
    jobs.claim(Lane::Training).await.unwrap()
}

/// Claims the next job as soon as there is one to claim.
async fn claim_soon(jobs: &Jobs) -> Lease {
    loop {
        if let Some(lease) = claim(jobs).await {
            return lease;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn kinds_of_events(jobs: &Jobs, job: JobId) -> Vec<String> {
    let events = jobs.events(job, 0, 100).await.unwrap();
    assert!(events.is_sorted_by_key(|event| event.sequence));
    let told = |event: &JobEvent| match event.data["state"].as_str() {
        Some(state) => state.to_owned(),
        None => event.kind.clone(),
    };
    events.iter().map(told).collect()
}

#[tokio::test]
async fn one_unfinished_job_for_each_key() {
    let (a, b) = two_servers().await;
    let first = submit(&a, "staff").await;
    let (same, is_new) = b.submit(&new("staff")).await.unwrap();
    assert!(!is_new && same == first);
    let other = submit(&b, "visitors").await;
    let lease = claim(&b).await.unwrap();
    assert_eq!(lease.job().id, first.id);
    assert!(!a.submit(&new("staff")).await.unwrap().1);
    lease.succeed(json!({})).await.unwrap();
    let again = submit(&a, "staff").await;

    let page = a.list(PageRequest::new(Some(2), None).unwrap()).await.unwrap();
    assert_eq!(page.items.iter().map(|job| job.id).collect::<Vec<_>>(), [again.id, other.id]);
    let rest = PageRequest::new(Some(2), page.next_cursor.as_deref()).unwrap();
    assert_eq!(a.list(rest).await.unwrap().items.iter().map(|job| job.id).collect::<Vec<_>>(), [first.id]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn submitted_at_once_it_is_one_job() {
    let (a, b) = two_servers().await;
    let clients = (0..12).map(|client| {
        let jobs = if client % 2 == 0 { a.clone() } else { b.clone() };
        tokio::spawn(async move { jobs.submit(&new("staff")).await.unwrap() })
    });
    let mut submitted = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        submitted.push(client.await.unwrap());
    }
    assert_eq!(submitted.iter().filter(|(_, is_new)| *is_new).count(), 1);
    assert!(submitted.iter().all(|(job, _)| job.id == submitted[0].0.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_job_of_a_lane_runs_at_a_time() {
    let (a, b) = two_servers().await;
    for number in 0..5 {
        submit(&a, &number.to_string()).await;
    }
    for _ in 0..5 {
        let workers = (0..8).map(|worker| {
            let jobs = if worker % 2 == 0 { a.clone() } else { b.clone() };
            tokio::spawn(async move { jobs.claim(Lane::Training).await.unwrap() })
        });
        let mut leases = Vec::new();
        for worker in workers.collect::<Vec<_>>() {
            leases.extend(worker.await.unwrap());
        }
        // Whoever lost a race may find nothing, but never two jobs run.
        assert!(leases.len() <= 1);
        let lease = match leases.pop() {
            Some(lease) => lease,
            None => claim(&a).await.unwrap(),
        };
        lease.succeed(Value::Null).await.unwrap();
    }
    assert!(claim(&a).await.is_none());
}

#[tokio::test]
async fn a_job_of_a_dead_server_is_taken_over() {
    let (a, b) = two_servers().await;
    let id = submit(&a, "staff").await.id;
    let dead = claim(&a).await.unwrap();
    dead.report(&json!({"stage": "training", "done": 3})).await.unwrap();
    dead.save("checkpoint", b"three steps").await.unwrap();
    assert!(claim(&b).await.is_none());

    let heir = claim_soon(&b).await;
    assert_eq!((heir.job().id, heir.job().attempts, heir.job().setbacks), (id, 2, 1));
    assert_eq!(heir.saved("checkpoint").await.unwrap().unwrap().content, b"three steps");
    // Whatever the first one does now, it changes nothing.
    for outcome in [
        dead.report(&json!({})).await,
        dead.tell(EventKind::Note, &json!({})).await,
        dead.save("checkpoint", b"nonsense").await,
        dead.advance().await,
        dead.succeed(json!({"candidate": "nonsense"})).await,
        dead.fail("nonsense".to_owned()).await,
        dead.set_back("nonsense".to_owned()).await,
        dead.cancel().await,
        dead.give_back().await,
    ] {
        assert!(matches!(outcome, Err(JobError::LeaseLost)), "{outcome:?}");
    }
    heir.succeed(json!({"candidate": "net"})).await.unwrap();
    let job = a.job(id).await.unwrap();
    assert_eq!((job.state, job.result), (JobState::Succeeded, Some(json!({"candidate": "net"}))));
    assert!(heir.saved("checkpoint").await.unwrap().is_none());
    let told = ["queued", "running", "progress", "running", "succeeded"];
    assert_eq!(kinds_of_events(&a, id).await, told);
}

#[tokio::test]
async fn a_lease_lasts_while_it_is_kept() {
    let (a, b) = two_servers().await;
    submit(&a, "staff").await;
    let lease = claim(&a).await.unwrap();
    tokio::select! {
        () = lease.keep() => panic!("the lease was lost"),
        () = sleep(Duration::from_millis(1500)) => (),
    }
    assert!(claim(&b).await.is_none() && lease.stop().is_none());
    // And a server that comes back too late learns that it lost it.
    let heir = claim_soon(&b).await;
    lease.keep().await;
    assert_eq!(lease.stop(), Some(Stop::Lost));
    assert_eq!(lease.stopped().await, Stop::Lost);
    heir.give_back().await.unwrap();
}

#[tokio::test]
async fn what_fails_is_tried_again_but_not_for_ever() {
    let (a, _) = two_servers().await;
    let id = submit(&a, "staff").await.id;
    claim(&a).await.unwrap().set_back("out of memory".to_owned()).await.unwrap();
    let job = a.job(id).await.unwrap();
    assert_eq!((job.state, job.error.as_deref(), job.setbacks), (JobState::Queued, Some("out of memory"), 1));
    assert!(claim(&a).await.is_none(), "it waits a while");

    // A setback after an advance counts from one again.
    let lease = claim_soon(&a).await;
    lease.advance().await.unwrap();
    lease.set_back("out of memory".to_owned()).await.unwrap();
    assert_eq!(a.job(id).await.unwrap().setbacks, 1);

    sqlx::query("update jobs set not_before = now(), setbacks = 4").execute(&a.pool).await.unwrap();
    claim(&a).await.unwrap().set_back("out of memory again".to_owned()).await.unwrap();
    let job = a.job(id).await.unwrap();
    assert_eq!((job.state, job.error.as_deref()), (JobState::Failed, Some("out of memory again")));

    // Servers that die of a job are setbacks as well.
    let id = submit(&a, "visitors").await.id;
    sqlx::query("update jobs set setbacks = 4 where id = $1").bind(id.0).execute(&a.pool).await.unwrap();
    let _dead = claim(&a).await.unwrap();
    while a.job(id).await.unwrap().state == JobState::Running {
        assert!(claim(&a).await.is_none());
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(a.job(id).await.unwrap().state, JobState::Failed);
    assert_eq!(pause_times(), [1, 2, 4, 8]);
}

fn pause_times() -> Vec<u64> {
    (1..MOST_SETBACKS).map(|setbacks| queue::pause_after(setbacks).as_secs()).collect()
}

#[tokio::test]
async fn a_job_that_was_given_back_goes_on_at_once() {
    let (a, b) = two_servers().await;
    let id = submit(&a, "staff").await.id;
    let lease = claim(&a).await.unwrap();
    lease.ask_to_stop(Stop::Shutdown);
    assert_eq!(lease.stopped().await, Stop::Shutdown);
    lease.give_back().await.unwrap();
    let next = claim(&b).await.unwrap();
    assert_eq!((next.job().id, next.job().attempts, next.job().setbacks), (id, 2, 0));
}

#[tokio::test]
async fn jobs_are_cancelled_wherever_they_are() {
    let (a, b) = two_servers().await;
    let queued = submit(&a, "staff").await.id;
    assert_eq!(b.cancel(queued).await.unwrap().state, JobState::Cancelled);
    assert!(matches!(b.cancel(queued).await, Err(JobError::JobFinished(id)) if id == queued));
    assert!(claim(&a).await.is_none());

    let running = submit(&a, "staff").await.id;
    let lease = claim(&a).await.unwrap();
    let (asked, ()) = tokio::join!(b.cancel(running), async {
        tokio::select! {
            () = lease.keep() => panic!("the lease was lost"),
            why = lease.stopped() => assert_eq!(why, Stop::Cancelled),
        }
    });
    let asked = asked.unwrap();
    assert!(asked.state == JobState::Running && asked.cancel_requested);
    b.cancel(running).await.unwrap();
    lease.cancel().await.unwrap();
    assert_eq!(kinds_of_events(&a, running).await, ["queued", "running", "running", "cancelled"]);

    // The server dies before it stops: nobody goes on.
    let orphan = submit(&a, "staff").await.id;
    let _dead = claim(&a).await.unwrap();
    b.cancel(orphan).await.unwrap();
    while a.job(orphan).await.unwrap().state == JobState::Running {
        assert!(claim(&b).await.is_none());
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(a.job(orphan).await.unwrap().state, JobState::Cancelled);
    let nobody = JobId::new();
    assert!(matches!(a.cancel(nobody).await, Err(JobError::JobNotFound(id)) if id == nobody));
}

#[tokio::test]
async fn what_happens_is_heard_at_every_server_and_old_events_go() {
    let (one, other) = (database().await, Duration::from_secs(30));
    let (a, b) = (Jobs::new(&one, other), Jobs::new(&one, other));
    let mut heard = b.subscribe();
    let listener = tokio::spawn(async move { one.listen().await });
    heard.changed().await.unwrap();
    let id = submit(&a, "staff").await.id;
    heard.changed().await.unwrap();
    listener.abort();

    a.cancel(id).await.unwrap();
    let events = a.events(id, 0, 100).await.unwrap();
    assert_eq!(a.events(id, events[0].sequence, 100).await.unwrap(), events[1..]);
    a.prune().await.unwrap();
    assert_eq!(a.events(id, 0, 100).await.unwrap(), events);
    sqlx::query("update jobs set finished_at = now() - interval '8 days'").execute(&a.pool).await.unwrap();
    a.prune().await.unwrap();
    assert!(a.events(id, 0, 100).await.unwrap().is_empty());
}

async fn submit_kind(jobs: &Jobs, kind: JobKind, key: &str) -> Job {
    let (key, requested_by) = (key.to_owned(), "test".to_owned());
    let new = NewJob { kind, key, settings: json!({}), requested_by, galleries: None };
    jobs.submit(&new).await.unwrap().0
}

#[tokio::test]
async fn what_erases_runs_side_by_side_and_is_never_given_up() {
    let (a, b) = two_servers().await;
    let jobs = [submit_kind(&a, JobKind::Erase, "one").await, submit_kind(&a, JobKind::Merge, "two").await];
    let first = a.claim(Lane::Erasure).await.unwrap().unwrap();
    let second = b.claim(Lane::Erasure).await.unwrap().unwrap();
    assert_eq!([first.job().id, second.job().id], [jobs[0].id, jobs[1].id]);
    assert!(a.claim(Lane::Erasure).await.unwrap().is_none());
    let refused = a.cancel(jobs[0].id).await;
    assert!(matches!(refused, Err(JobError::NotCancellable { kind: JobKind::Erase, .. })));
    second.succeed(json!({})).await.unwrap();
    // However often servers die over it.
    for attempt in 2..2 + MOST_SETBACKS + 2 {
        let lease = loop {
            match b.claim(Lane::Erasure).await.unwrap() {
                Some(lease) => break lease,
                None => sleep(Duration::from_millis(20)).await,
            }
        };
        assert_eq!((lease.job().id, lease.job().attempts), (jobs[0].id, attempt));
    }
}

#[tokio::test]
async fn there_is_one_of_each_job_that_never_ends() {
    let (a, b) = two_servers().await;
    tokio::join!(async { a.ensure_recurring().await.unwrap() }, async { b.ensure_recurring().await.unwrap() });
    let jobs = a.list(PageRequest::new(None, None).unwrap()).await.unwrap().items;
    let mut kinds: Vec<&str> = jobs.iter().map(|job| job.kind.name()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["embed", "encrypt", "expire", "index", "measure", "reclaim", "review"]);
    assert!(matches!(a.cancel(jobs[0].id).await, Err(JobError::NotCancellable { .. })));
    let lease = a.claim(Lane::Review).await.unwrap().unwrap();
    assert!(b.claim(Lane::Review).await.unwrap().is_none());
    // How far it is is told, but what it was leaves no story.
    lease.report(&json!({"stage": "reviewing"})).await.unwrap();
    lease.explain(Some("a reason")).await.unwrap();
    let job = a.job(lease.job().id).await.unwrap();
    assert_eq!((job.progress, job.error.as_deref()), (Some(json!({"stage": "reviewing"})), Some("a reason")));
    assert_eq!(kinds_of_events(&a, job.id).await, ["queued", "running"]);
}

#[tokio::test]
async fn a_job_is_seen_by_who_sees_all_its_galleries() {
    let (all, _) = two_servers().await;
    let [one, other] = [GalleryId::new(), GalleryId::new()];
    let of = async |key: &str, galleries: Option<Vec<GalleryId>>| {
        let (job, _) = all.submit(&NewJob { galleries, ..new(key) }).await.unwrap();
        job.id
    };
    let shared = of("shared", None).await;
    let of_one = of("one", Some(vec![one])).await;
    let of_both = of("both", Some(vec![other, one])).await;
    for (scope, seen) in
        [(vec![], vec![]), (vec![one], vec![of_one]), (vec![other], vec![]), (vec![one, other], vec![of_both, of_one])]
    {
        let scoped = all.for_caller(&scoped_to(Scope::Galleries(scope.into())));
        let page = scoped.list(PageRequest::default()).await.unwrap();
        assert_eq!(page.items.iter().map(|job| job.id).collect::<Vec<_>>(), seen);
        for id in [shared, of_one, of_both] {
            let is_seen = seen.contains(&id);
            assert_eq!(scoped.job(id).await.is_ok(), is_seen);
            assert_eq!(!scoped.events(id, 0, 10).await.unwrap().is_empty(), is_seen);
            if !is_seen {
                assert!(matches!(scoped.job(id).await, Err(JobError::JobNotFound(named)) if named == id));
                assert!(matches!(scoped.cancel(id).await, Err(JobError::JobNotFound(named)) if named == id));
            }
        }
    }
    let scoped = all.for_caller(&scoped_to(Scope::Galleries([one].into())));
    assert_eq!(scoped.cancel(of_one).await.unwrap().state, JobState::Cancelled);
    assert_eq!(all.job(shared).await.unwrap().galleries, None);
    assert_eq!(all.job(of_both).await.unwrap().galleries, Some(vec![other, one]));
}
