//! The messages and clients of etcd's API, generated from `proto/`: for questions of our own, tests
//! and benches. The request path does not decode messages; see [`crate::wire`].
#![allow(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::indexing_slicing,
    missing_docs,
    unused_qualifications,
    rustdoc::all,
    reason = "generated code"
)]

/// Keys and events.
pub mod mvccpb {
    include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
}

/// etcd's own users and roles.
pub mod authpb {
    include!(concat!(env!("OUT_DIR"), "/authpb.rs"));
}

/// The services of the client port.
pub mod etcdserverpb {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}

/// Locks.
pub mod v3lockpb {
    include!(concat!(env!("OUT_DIR"), "/v3lockpb.rs"));
}

/// Elections.
pub mod v3electionpb {
    include!(concat!(env!("OUT_DIR"), "/v3electionpb.rs"));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::field_descriptor_proto::{Label, Type};
    use prost_types::{
        DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    };

    /// Written by `tools/etcd-fields` from the Go packages of etcd.
    const ETCD: &str = include_str!("fields.txt");

    fn line(package: &str, message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
        let kind = match field.r#type() {
            Type::Message | Type::Enum => field.type_name().trim_start_matches('.').to_owned(),
            scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
        };
        let cardinality = if field.label() == Label::Repeated { "repeated" } else { "optional" };
        let oneof = field.oneof_index.map(|index| {
            format!(" {}", message.oneof_decl[usize::try_from(index).unwrap()].name())
        });
        format!(
            "{package}.{} {:03} {} {kind} {cardinality}{}",
            message.name(),
            field.number(),
            field.name(),
            oneof.unwrap_or_default()
        )
    }

    fn values(scope: &str, kind: &EnumDescriptorProto) -> impl Iterator<Item = String> {
        kind.value.iter().map(move |value| {
            format!("value {scope}.{} {} {}", kind.name(), value.number(), value.name())
        })
    }

    #[test]
    fn our_proto_files_say_what_etcds_descriptors_say() {
        let descriptors = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
        let set = FileDescriptorSet::decode(&descriptors[..]).unwrap();
        let mut ours = BTreeSet::new();
        for file in &set.file {
            for message in &file.message_type {
                ours.extend(message.field.iter().map(|field| line(file.package(), message, field)));
            }
            ours.extend(file.enum_type.iter().flat_map(|kind| values(file.package(), kind)));
            for message in &file.message_type {
                let scope = format!("{}.{}", file.package(), message.name());
                ours.extend(message.enum_type.iter().flat_map(|kind| values(&scope, kind)));
            }
            for service in &file.service {
                ours.extend(service.method.iter().map(|method| {
                    let (input, output) = (
                        method.input_type().trim_start_matches('.'),
                        method.output_type().trim_start_matches('.'),
                    );
                    format!(
                        "rpc {}.{}/{} {input} {output}",
                        file.package(),
                        service.name(),
                        method.name()
                    )
                }));
            }
        }
        let theirs: BTreeSet<String> = ETCD.lines().map(str::to_owned).collect();
        assert!(theirs.len() > 300, "proto/fields.txt is cut");
        assert_eq!(theirs.difference(&ours).collect::<Vec<_>>(), [""; 0], "missing here");
        assert_eq!(ours.difference(&theirs).collect::<Vec<_>>(), [""; 0], "not in etcd");
    }
}
