//! Whose a route of the kernel is: by its protocol, and by what Felix and BIRD take for their own.

use super::View;
use crate::{
    intent::{
        Encapsulation, Owner,
        derive::{PROTOCOL_BIRD, PROTOCOL_BOOT, PROTOCOL_FELIX},
    },
    programmed::{Route, RouteKind},
};
use alloc::string::{String, ToString};

/// What the table's remedy says of a writer whom nothing gives away.
pub(super) const SUSPECTS: &str = "(DHCP client, cloud agent, another CNI)";

/// Who takes this route, which stands in the place of an expected one, for its own: Felix by protocol and by device
/// (`MainTableOwnershipPolicy`, felix/routetable/ownershippol/main_route_table_policy.go), BIRD by protocol.
pub(super) fn recognised_by(view: &View<'_>, route: &Route) -> Option<Owner> {
    let settings = &view.intent.settings;
    let exclusive = match settings.device_route_protocol.value() {
        Some(&chosen) if chosen != PROTOCOL_BOOT => chosen,
        _ => PROTOCOL_FELIX,
    };
    if route.protocol == exclusive {
        return Some(Owner::Felix);
    }
    if route.protocol == PROTOCOL_BIRD && (route.kind != RouteKind::Unicast || !on_vxlan(view, route)) {
        return Some(Owner::Bird);
    }
    let felix = route.kind == RouteKind::Unicast && (on_vxlan(view, route) || on_workload(view, route));
    felix.then_some(Owner::Felix)
}

/// Felix removes from its VXLAN devices whatever it does not want there, whoever wrote it.
fn on_vxlan(view: &View<'_>, route: &Route) -> bool {
    let is = |name: &str| {
        let mut tunnels = view.intent.tunnels.iter();
        tunnels.any(|t| t.encapsulation == Encapsulation::Vxlan && t.device == name)
    };
    leads_out_of(view, route, is)
}

/// The same of pods' devices, unless `removeExternalRoutes` is off.
fn on_workload(view: &View<'_>, route: &Route) -> bool {
    let settings = &view.intent.settings;
    if settings.remove_external_routes.value() == Some(&false) && route.protocol != PROTOCOL_BOOT {
        return false;
    }
    let prefixes = settings.interface_prefixes.value();
    leads_out_of(view, route, |name| {
        prefixes.is_some_and(|all| all.iter().any(|prefix| name.starts_with(prefix.as_str())))
    })
}

fn leads_out_of(view: &View<'_>, route: &Route, is: impl Fn(&str) -> bool) -> bool {
    let mut devices = route.next_hops.iter().filter_map(|hop| hop.oif);
    devices.any(|index| is(&view.device_name(index)))
}

/// What to say instead of [`SUSPECTS`] where the protocol gives the writer away; none where it does not.
pub(super) fn suspect(owner: Owner, protocol: u8) -> Option<&'static str> {
    match (owner, protocol) {
        (Owner::Felix, PROTOCOL_BIRD) => {
            Some("(BIRD by its protocol: left from before Felix took these routes over, or of a BIRD that still programs them)")
        }
        (Owner::Bird, PROTOCOL_FELIX) => {
            Some("(Felix by its protocol: left from before BIRD took these routes over, or of a Felix that still programs them)")
        }
        (_, 2) => Some("(the kernel by its protocol, for an address on that device)"),
        (_, 9) => Some("(a router's advertisement by its protocol)"),
        (_, 16) => Some("(a DHCP client by its protocol)"),
        (_, 18) => Some("(keepalived by its protocol)"),
        _ => None,
    }
}

/// A protocol as `ip route` prints it: by name where iproute2 has one (`rtnl_rtprot_tab`, lib/rt_names.c).
pub(super) fn protocol_text(protocol: u8) -> String {
    let name = match protocol {
        1 => "redirect",
        2 => "kernel",
        PROTOCOL_BOOT => "boot",
        4 => "static",
        8 => "gated",
        9 => "ra",
        10 => "mrt",
        11 => "zebra",
        PROTOCOL_BIRD => "bird",
        13 => "dnrouted",
        14 => "xorp",
        15 => "ntk",
        16 => "dhcp",
        17 => "mrouted",
        18 => "keepalived",
        42 => "babel",
        186 => "bgp",
        187 => "isis",
        188 => "ospf",
        189 => "rip",
        192 => "eigrp",
        other => return other.to_string(),
    };
    name.to_string()
}
