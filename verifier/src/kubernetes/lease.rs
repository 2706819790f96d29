//! Reading and writing the Lease by which one of several controllers leads. Who does, the core decides.

use super::{client::Trouble, results::WriteError};
use k8s_openapi::{
    api::coordination::v1::{Lease as ApiLease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff,
};
use kube::{Api, Client, api::PostParams};
use verifier_core::{
    lease::{DURATION_SECONDS, Election, Lease, Step},
    names::UnixNs,
};

/// Which Lease.
#[derive(Clone, Debug)]
pub struct Name {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who we are.
    pub identity: String,
}

/// One attempt to take or keep the Lease. Afterwards [`Election::leads`] tells.
///
/// # Errors
/// The server does not answer or refuses. Losing against another candidate is none.
pub async fn attempt(client: &Client, of: &Name, election: &mut Election, now: UnixNs, now_ms: u64) -> Result<(), WriteError> {
    let leases: Api<ApiLease> = Api::namespaced(client.clone(), &of.namespace);
    let resource = format!("leases.coordination.k8s.io in {}", of.namespace);
    let got = leases.get_opt(&of.name).await;
    let found = got.map_err(|error| WriteError::new("get", &resource, &of.name, &error))?;
    let step = election.step(found.as_ref().map(read), now_ms);
    let written = match (&step, found) {
        (Step::Wait, _) => {
            election.lost();
            return Ok(());
        }
        (Step::Take { transitions } | Step::Renew { transitions }, Some(mut lease)) => {
            let taken = matches!(step, Step::Take { .. });
            lease.spec = Some(spec(of, now, *transitions, lease.spec.filter(|_| !taken)));
            // The object carries its version: another candidate's write in between makes this one fail.
            leases.replace(&of.name, &PostParams::default(), &lease).await
        }
        (Step::Take { transitions } | Step::Renew { transitions }, None) => {
            let lease = ApiLease {
                metadata: ObjectMeta {
                    name: Some(of.name.clone()),
                    namespace: Some(of.namespace.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(spec(of, now, *transitions, None)),
            };
            leases.create(&PostParams::default(), &lease).await
        }
    };
    match written {
        Ok(_) => {
            election.won(now_ms);
            Ok(())
        }
        Err(error) if Trouble::of(&error) == Trouble::Conflict => {
            election.lost();
            Ok(())
        }
        Err(error) => Err(WriteError::new("create and update", &resource, &of.name, &error)),
    }
}

/// Gives the Lease up, so that another candidate need not wait for its end.
///
/// # Errors
/// It could not be written; it then runs out by itself.
pub async fn release(client: &Client, of: &Name, now: UnixNs) -> Result<(), WriteError> {
    let leases: Api<ApiLease> = Api::namespaced(client.clone(), &of.namespace);
    let resource = format!("leases.coordination.k8s.io in {}", of.namespace);
    let refused = |verb: &str, error: &kube::Error| WriteError::new(verb, &resource, &of.name, error);
    let got = leases.get_opt(&of.name).await;
    let Some(mut lease) = got.map_err(|error| refused("get", &error))? else {
        return Ok(());
    };
    let read = read(&lease);
    if read.holder != of.identity {
        return Ok(());
    }
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(1),
        renew_time: time(now),
        acquire_time: time(now),
        lease_transitions: i32::try_from(read.transitions).ok(),
        ..LeaseSpec::default()
    });
    let done = leases.replace(&of.name, &PostParams::default(), &lease).await;
    done.map_err(|error| refused("update", &error))?;
    Ok(())
}

fn read(lease: &ApiLease) -> Lease {
    let Some(spec) = &lease.spec else { return Lease::default() };
    let number = |value: Option<i32>| value.and_then(|value| u32::try_from(value).ok()).unwrap_or(0);
    Lease {
        holder: spec.holder_identity.clone().unwrap_or_default(),
        renewed: spec.renew_time.as_ref().map_or_else(String::new, |time| time.0.to_string()),
        duration_seconds: number(spec.lease_duration_seconds),
        transitions: number(spec.lease_transitions),
    }
}

fn spec(of: &Name, now: UnixNs, transitions: u32, kept: Option<LeaseSpec>) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(of.identity.clone()),
        lease_duration_seconds: i32::try_from(DURATION_SECONDS).ok(),
        acquire_time: kept.and_then(|spec| spec.acquire_time).or_else(|| time(now)),
        renew_time: time(now),
        lease_transitions: i32::try_from(transitions).ok(),
        ..LeaseSpec::default()
    }
}

fn time(at: UnixNs) -> Option<MicroTime> {
    jiff::Timestamp::from_nanosecond(i128::from(at.0)).ok().map(MicroTime)
}
