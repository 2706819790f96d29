//! Causes of a machine head the chain of what follows from them, and of nothing else.

use verifier_core::{
    names::NodeName,
    report::{Style, cause_lines},
    verdict::{CauseCode, Consequence, Finding, FindingEvidence, Severity, roots},
};

fn finding(code: CauseCode, subject: &str) -> Finding {
    Finding {
        code,
        node: Some(NodeName::from("node-a")),
        peer: None,
        pod: None,
        subject: subject.to_owned(),
        hop: None,
        expected_next: None,
        severity: code.cause().severity,
        evidence: FindingEvidence::default(),
        transient: false,
        since: None,
        consequences: Vec::new(),
        owner: None,
        recognised_by: None,
        values: Default::default(),
    }
}

fn device(what: &str, intent: &str) -> Finding {
    let mut f = finding(CauseCode::TunnelDeviceMissing, what);
    f.evidence.intent = Some(intent.to_owned());
    f
}

fn route(device: &str) -> Finding {
    let mut f = finding(CauseCode::RouteMissing, "10.244.1.0/26");
    f.peer = Some(NodeName::from("node-b"));
    f.evidence.intent = Some(format!("10.244.1.0/26 via 10.244.1.0 dev {device} onlink"));
    f
}

#[test]
fn an_upgraded_kernel_explains_the_module_the_device_and_the_routes() {
    let found = roots(vec![
        route("vxlan.calico"),
        device("vxlan.calico", "VXLAN device vxlan.calico id 4096"),
        finding(CauseCode::KernelModuleMissing, "vxlan"),
        finding(CauseCode::KernelUpgraded, "6.8.0-45-generic"),
    ]);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].code, CauseCode::KernelUpgraded);
    assert_eq!(found[0].severity, Severity::Error);
    assert_eq!(found[0].consequences.len(), 3);
    let lines = cause_lines(&found[0], (None, 90), Style::Plain);
    let chain = lines.iter().find(|line| line.contains("chain")).unwrap();
    assert!(
        chain.contains("kernel-upgraded > kernel-module-missing > tunnel-device-missing > route-missing"),
        "{chain}"
    );
    assert!(lines.iter().any(|line| line.contains("persist")), "{lines:#?}");
}

#[test]
fn a_module_explains_only_the_device_that_is_made_of_it() {
    let ipip = device("tunl0", "IPIP device tunl0");
    assert_eq!(roots(vec![ipip.clone(), finding(CauseCode::KernelLacksSupport, "ipip")]).len(), 1);
    assert_eq!(roots(vec![ipip.clone(), finding(CauseCode::KernelModuleMissing, "vxlan")]).len(), 2);
    assert_eq!(roots(vec![ipip, finding(CauseCode::KernelModuleMissing, "xt_set")]).len(), 2);
}

#[test]
fn a_risk_that_has_happened_is_as_bad_as_what_happened() {
    let alone = roots(vec![finding(CauseCode::NetworkManagerManagesCalico, "NetworkManager")]);
    assert_eq!(alone[0].severity, Severity::Warning);
    let both = roots(vec![
        finding(CauseCode::NetworkManagerManagesCalico, "NetworkManager"),
        finding(CauseCode::TunnelDeviceDown, "vxlan.calico"),
    ]);
    assert_eq!((both.len(), both[0].severity), (1, Severity::Error));
    let consequence = both[0].consequences.first().unwrap();
    assert!(matches!(
        consequence,
        Consequence::Cause {
            code: CauseCode::TunnelDeviceDown,
            ..
        }
    ));
}

#[test]
fn what_stands_nearer_to_the_packets_is_the_nearer_cause() {
    // networkd may remove routes, but these went with their device.
    let found = roots(vec![
        route("vxlan.calico"),
        device("vxlan.calico", "VXLAN device vxlan.calico"),
        finding(CauseCode::NetworkdRemovesRoutes, "networkd.conf"),
    ]);
    let codes: Vec<CauseCode> = found.iter().map(|f| f.code).collect();
    assert!(
        codes.contains(&CauseCode::TunnelDeviceMissing) && codes.contains(&CauseCode::NetworkdRemovesRoutes),
        "{codes:?}"
    );
    let device = found.iter().find(|f| f.code == CauseCode::TunnelDeviceMissing).unwrap();
    assert_eq!(device.consequences.len(), 1);
}

#[test]
fn another_nodes_machine_explains_nothing_here() {
    let mut elsewhere = finding(CauseCode::KernelModuleMissing, "vxlan");
    elsewhere.node = Some(NodeName::from("node-b"));
    assert_eq!(roots(vec![elsewhere, device("vxlan.calico", "VXLAN device vxlan.calico")]).len(), 2);
}
