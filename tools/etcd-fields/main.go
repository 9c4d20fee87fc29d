// Prints one line per field of every message of etcd's client API, as the Go packages of that release describe it:
// MESSAGE NUMBER NAME TYPE CARDINALITY [ONEOF]; then one line per RPC and per value of an enum (value ENUM NUMBER NAME). Run with `go run . >../../proto/fields.txt`.
package main

import (
	"fmt"
	"os"
	"sort"

	"google.golang.org/protobuf/reflect/protoreflect"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
)

func main() {
	files := []protoreflect.FileDescriptor{
		mvccpb.File_kv_proto,
		authpb.File_auth_proto,
		etcdserverpb.File_rpc_proto,
		v3lockpb.File_v3lock_proto,
		v3electionpb.File_v3election_proto,
	}
	var lines []string
	for _, file := range files {
		lines = append(lines, values(file.Enums())...)
		for i := 0; i < file.Messages().Len(); i++ {
			message := file.Messages().Get(i)
			lines = append(lines, values(message.Enums())...)
			for j := 0; j < message.Fields().Len(); j++ {
				lines = append(lines, line(message, message.Fields().Get(j)))
			}
		}
		for i := 0; i < file.Services().Len(); i++ {
			service := file.Services().Get(i)
			for j := 0; j < service.Methods().Len(); j++ {
				method := service.Methods().Get(j)
				lines = append(lines, fmt.Sprintf("rpc %s/%s %s %s", service.FullName(), method.Name(), method.Input().FullName(), method.Output().FullName()))
			}
		}
	}
	sort.Strings(lines)
	for _, line := range lines {
		fmt.Fprintln(os.Stdout, line)
	}
}

func line(message protoreflect.MessageDescriptor, field protoreflect.FieldDescriptor) string {
	kind := field.Kind().String()
	switch {
	case field.Message() != nil:
		kind = string(field.Message().FullName())
	case field.Enum() != nil:
		kind = string(field.Enum().FullName())
	}
	text := fmt.Sprintf("%s %03d %s %s %s", message.FullName(), field.Number(), field.Name(), kind, field.Cardinality())
	if oneof := field.ContainingOneof(); oneof != nil {
		text += " " + string(oneof.Name())
	}
	return text
}

func values(enums protoreflect.EnumDescriptors) (lines []string) {
	for i := 0; i < enums.Len(); i++ {
		enum := enums.Get(i)
		for j := 0; j < enum.Values().Len(); j++ {
			value := enum.Values().Get(j)
			lines = append(lines, fmt.Sprintf("value %s %d %s", enum.FullName(), value.Number(), value.Name()))
		}
	}
	return lines
}
