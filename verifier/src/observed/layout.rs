//! Resolves the [`Layout`] that is frozen into the drop programs: from the kernel's BTF, and for the plain tracepoint from its format file.

use std::{fs, io};

use verifier_ebpf::{config::Layout, plain::Field as _};

use super::btf::{Btf, BtfError};

/// Where the format of `skb:kfree_skb` stands, if tracefs is mounted (new place, old place).
const FORMATS: [&str; 2] = [
    "/sys/kernel/tracing/events/skb/kfree_skb/format",
    "/sys/kernel/debug/tracing/events/skb/kfree_skb/format",
];

/// Offsets of everything that the drop programs read of a packet.
///
/// # Errors
/// The running kernel lacks one of them, by name.
pub fn resolve(btf: &Btf) -> Result<Layout, BtfError> {
    let skb = |member: &str| btf.offset("sk_buff", &[member]);
    Ok(Layout {
        skb_dev: skb("dev")?,
        skb_sk: skb("sk")?,
        skb_head: skb("head")?,
        skb_data: skb("data")?,
        skb_tail: skb("tail")?,
        skb_network_header: skb("network_header")?,
        skb_protocol: skb("protocol")?,
        skb_iif: skb("skb_iif")?,
        skb_refdst: skb("_skb_refdst")?,
        skb_mark: skb("mark")?,
        dev_net: btf.offset("net_device", &["nd_net"])?,
        dev_ifindex: btf.offset("net_device", &["ifindex"])?,
        sock_net: btf.offset("sock", &["__sk_common", "skc_net"])?,
        net_inum: btf.offset("net", &["ns", "inum"])?,
        // Set by `with_tracepoint` where that program is used; otherwise any offset that the kernel's verifier accepts.
        ..Layout::ZERO
    })
}

/// Adds the offsets of the plain tracepoint.
///
/// # Errors
/// tracefs is not mounted, or the format lacks a field.
pub fn with_tracepoint(layout: Layout) -> io::Result<Layout> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for path in FORMATS {
        match fs::read_to_string(path) {
            Ok(format) => return add_tracepoint(layout, &format),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// With the fields of the tracepoint, from its `format` file.
pub(crate) fn add_tracepoint(layout: Layout, format: &str) -> io::Result<Layout> {
    let required = |name: &str| field_offset(format, name)?.ok_or_else(|| io::Error::other(format!("skb:kfree_skb has no field {name}")));
    Ok(Layout {
        tracepoint_skb: required("skbaddr")?,
        tracepoint_location: required("location")?,
        // Kernels before 5.17 do not say why.
        tracepoint_reason: field_offset(format, "reason")?.unwrap_or(Layout::ABSENT),
        ..layout
    })
}

/// The offset in a line such as `field:void * location; offset:16; size:8; signed:0;`.
fn field_offset(format: &str, name: &str) -> io::Result<Option<u32>> {
    let fields = format.lines().filter_map(|line| line.trim().strip_prefix("field:"));
    for (declared, rest) in fields.filter_map(|field| field.split_once(';')) {
        if declared.rsplit([' ', '*']).next() == Some(name) {
            let number = rest.trim().trim_start_matches("offset:").split(';').next().unwrap_or_default();
            return number
                .parse()
                .map(Some)
                .map_err(|_| io::Error::other(format!("field {name} of skb:kfree_skb: {rest}")));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.1 prints it.
    const FORMAT: &str = "name: kfree_skb\nID: 1\nformat:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
        \tfield:void * skbaddr;\toffset:8;\tsize:8;\tsigned:0;\n\tfield:void * location;\toffset:16;\tsize:8;\tsigned:0;\n\
        \tfield:unsigned short protocol;\toffset:24;\tsize:2;\tsigned:0;\n\tfield:enum skb_drop_reason reason;\toffset:28;\tsize:4;\tsigned:0;\n";

    #[test]
    fn the_format_of_the_tracepoint_is_read() {
        let layout = add_tracepoint(Layout::ZERO, FORMAT).unwrap();
        assert_eq!(
            (layout.tracepoint_skb, layout.tracepoint_location, layout.tracepoint_reason),
            (8, 16, 28)
        );
        let old = FORMAT.replace("reason;", "protocol2;");
        assert_eq!(add_tracepoint(Layout::ZERO, &old).unwrap().tracepoint_reason, Layout::ABSENT);
        assert!(add_tracepoint(Layout::ZERO, "").is_err());
    }
}
