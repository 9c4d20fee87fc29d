// A watch by etcd's own Go client, with a certificate that is renewed under it: TLSInfo reads the files anew at each handshake, as
// kube-apiserver, Calico and etcdctl do. Prints a line for each event, `MOD_REVISION VALUE`, and ends with a sentence when the watch does.
// Usage: renewing-watcher ENDPOINT CA CERT KEY PREFIX
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func main() {
	if len(os.Args) != 6 {
		fail("usage: renewing-watcher ENDPOINT CA CERT KEY PREFIX")
	}
	endpoint, ca, cert, key, prefix := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]
	tls, err := transport.TLSInfo{TrustedCAFile: ca, CertFile: cert, KeyFile: key}.ClientConfig()
	if err != nil {
		fail("cannot read the certificate: %v", err)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, TLS: tls, DialTimeout: 20 * time.Second})
	if err != nil {
		fail("cannot connect: %v", err)
	}
	for response := range client.Watch(context.Background(), prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify()) {
		if err := response.Err(); err != nil {
			fail("the watch ended: %v", err)
		}
		if response.Created {
			fmt.Println("created")
		}
		for _, event := range response.Events {
			fmt.Println(event.Kv.ModRevision, string(event.Kv.Value))
		}
	}
	fail("the watch ended without a word")
}

func fail(format string, words ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", words...)
	os.Exit(1)
}
