//! Programs of others on our devices: tcx, clsact and XDP. A packet that disappears between two taps may have met one of them.

use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType, loaded_programs};
use std::collections::BTreeMap;
use verifier_core::{
    evidence::{Evidence, Gap},
    names::PodRef,
    programmed::{ForeignHook, HookPoint, Link},
};

use super::taps::OUR_PREFIX;
use crate::programmed::{
    netlink::{
        Channel, Malformed, Request,
        attr::{attrs, head, u32_of},
    },
    netns::Netns,
};

const SOURCE: &str = "programmed/hooks";
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
/// Attributes of a `bpf` filter (`include/uapi/linux/pkt_cls.h`).
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;
/// The parents of clsact's two lists (`include/uapi/linux/pkt_sched.h`).
const CLSACT: [(HookPoint, u32); 2] = [(HookPoint::TcIngress, 0xffff_fff2), (HookPoint::TcEgress, 0xffff_fff3)];

/// Programs on `links` of a namespace that are not ours; `pod` names the pod whose namespace it is, none for the node's.
pub fn foreign_hooks(netns: &Netns, pod: Option<&PodRef>, links: &[Link]) -> Evidence<Vec<ForeignHook>> {
    let mut look = Look {
        pod: pod.cloned(),
        hooks: Vec::new(),
        missing: Vec::new(),
    };
    match Channel::open(netns, libc::NETLINK_ROUTE as isize) {
        Ok(mut channel) => {
            for link in links {
                for (point, parent) in CLSACT {
                    look.clsact(&mut channel, link, point, parent);
                }
            }
        }
        Err(error) => look.missing.push(Gap::new(SOURCE, error.to_string())),
    }
    // The kernel resolves an interface where the caller is; the answer holds no more than numbers, so a visit per namespace suffices.
    let visit = netns.run_in(|| {
        for link in links {
            look.tcx(link, HookPoint::TcIngress, TcAttachType::Ingress);
            look.tcx(link, HookPoint::TcEgress, TcAttachType::Egress);
        }
        look.xdp(links);
    });
    if let Err(error) = visit {
        look.missing.push(Gap::new(SOURCE, error.to_string()));
    }
    look.hooks.sort();
    Evidence::partial(look.hooks, look.missing)
}

struct Look {
    pod: Option<PodRef>,
    hooks: Vec<ForeignHook>,
    missing: Vec<Gap>,
}

impl Look {
    fn add(&mut self, link: &Link, point: HookPoint, program: String, id: Option<u32>) {
        if !program.starts_with(OUR_PREFIX) {
            self.hooks.push(ForeignHook {
                device: link.name.clone(),
                pod: self.pod.clone(),
                point,
                program,
                id,
            });
        }
    }

    fn tcx(&mut self, link: &Link, point: HookPoint, direction: TcAttachType) {
        match SchedClassifier::query_tcx(&link.name, direction) {
            Ok((_, programs)) => {
                for program in programs {
                    self.add(link, point, name(&program), Some(program.id()));
                }
            }
            // A kernel without tcx has no tcx programs; a link that went away has none either.
            Err(error) => match super::taps::errno(&error) {
                Some(libc::EINVAL | libc::ENODEV | libc::EOPNOTSUPP) => {}
                _ => self.missing.push(Gap::new(SOURCE, format!("tcx of {}: {error}", link.name))),
            },
        }
    }

    fn clsact(&mut self, channel: &mut Channel, link: &Link, point: HookPoint, parent: u32) {
        // `struct tcmsg`: family, padding, interface, handle, parent, info.
        let mut header = [0; 20];
        header[4..8].copy_from_slice(&link.index.to_ne_bytes());
        header[12..16].copy_from_slice(&parent.to_ne_bytes());
        let dumped = channel.dump(&Request::dump(RTM_GETTFILTER, &header), |kind, message| {
            filter(link.index, kind, message)
        });
        match dumped.into_evidence(SOURCE) {
            Evidence::Complete { value } => {
                for (program, id) in value {
                    self.add(link, point, program, id);
                }
            }
            Evidence::Partial { value, missing } => {
                for (program, id) in value {
                    self.add(link, point, program, id);
                }
                self.missing.extend(missing);
            }
            Evidence::Unavailable { gap } => self.missing.push(gap),
        }
    }

    /// The id stands in the link; its name is with the program.
    fn xdp(&mut self, links: &[Link]) {
        let wanted: Vec<(&Link, u32)> = links.iter().filter_map(|link| link.xdp.map(|id| (link, id))).collect();
        if wanted.is_empty() {
            return;
        }
        let mut names: BTreeMap<u32, String> = BTreeMap::new();
        for program in loaded_programs() {
            match program {
                Ok(program) => {
                    names.insert(program.id(), name(&program));
                }
                Err(error) => {
                    self.missing.push(Gap::new(SOURCE, format!("names of XDP programs: {error}")));
                    break;
                }
            }
        }
        for (link, id) in wanted {
            let program = names.get(&id).cloned().unwrap_or_else(|| format!("program {id}"));
            self.add(link, HookPoint::Xdp, program, Some(id));
        }
    }
}

fn name(program: &ProgramInfo) -> String {
    match program.name_as_str() {
        Some("") | None => format!("program {}", program.id()),
        Some(name) => name.to_owned(),
    }
}

/// A filter's name and program id, in the dump of one interface.
pub(crate) fn filter(index: u32, kind: u16, message: &[u8]) -> Result<Option<(String, Option<u32>)>, Malformed> {
    if kind != RTM_NEWTFILTER {
        return Ok(None);
    }
    let header = head::<20>("tcmsg", message)?;
    if u32_of("tcmsg interface", &header[4..])? != index || u32_of("tcmsg handle", &header[8..])? == 0 {
        // Another interface's, or the line that announces a priority without a filter.
        return Ok(None);
    }
    let (mut filter_kind, mut program, mut id) = (String::new(), None, None);
    for attr in attrs(&message[20..]) {
        match attr? {
            (TCA_KIND, value) => filter_kind = text(value),
            (TCA_OPTIONS, value) => {
                for option in attrs(value) {
                    match option? {
                        (TCA_BPF_NAME, value) => program = Some(text(value)),
                        (TCA_BPF_ID, value) => id = Some(u32_of("TCA_BPF_ID", value)?),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    match (filter_kind.as_str(), program) {
        ("bpf", Some(program)) => Ok(Some((program, id))),
        // Any other filter can drop just as well; it has no program, so its kind is its name.
        (_, _) => Ok(Some((filter_kind, id))),
    }
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = [(value.len() as u16 + 4).to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_filter_is_named_by_its_program_and_any_other_by_its_kind() {
        let mut header = [0; 20];
        header[4..8].copy_from_slice(&7u32.to_ne_bytes());
        header[8..12].copy_from_slice(&1u32.to_ne_bytes());
        let options = [attr(TCA_BPF_NAME, b"evil\0"), attr(TCA_BPF_ID, &9u32.to_ne_bytes())].concat();
        let bpf = [header.to_vec(), attr(TCA_KIND, b"bpf\0"), attr(TCA_OPTIONS, &options)].concat();
        assert_eq!(filter(7, RTM_NEWTFILTER, &bpf).unwrap(), Some(("evil".to_owned(), Some(9))));
        assert_eq!(filter(8, RTM_NEWTFILTER, &bpf).unwrap(), None);
        let u32_filter = [header.to_vec(), attr(TCA_KIND, b"u32\0")].concat();
        assert_eq!(filter(7, RTM_NEWTFILTER, &u32_filter).unwrap(), Some(("u32".to_owned(), None)));
        header[8..12].fill(0);
        assert_eq!(
            filter(7, RTM_NEWTFILTER, &[header.to_vec(), attr(TCA_KIND, b"bpf\0")].concat()).unwrap(),
            None
        );
        assert!(filter(7, RTM_NEWTFILTER, &header[..19]).is_err());
    }
}
