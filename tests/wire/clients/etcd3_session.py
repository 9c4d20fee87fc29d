"""What the Python package etcd3 can do, once each. Run by the recorder (tests/it/wire_clients/record.rs)."""
import sys

import etcd3

client = etcd3.client(host="127.0.0.1", port=int(sys.argv[1]), ca_cert="ca.crt", cert_cert="client.crt", cert_key="client.key")
client.put("a", "1")
client.put("a", "2", prev_kv=True)
client.get("a")
client.get("a", serializable=True)
list(client.get_prefix("a", sort_order="descend", sort_target="key"))
list(client.get_prefix("a", keys_only=True))
list(client.get_range("a", "c"))
list(client.get_all(sort_order="ascend", sort_target="mod"))
client.put_if_not_exists("a", "3")
client.replace("a", "2", "4")
tx = client.transactions
for compare in [
    tx.value("a") == "4", tx.value("a") != "4", tx.version("a") > 0, tx.version("a") == 0, tx.create("a") < 5, tx.create("a") == 0,
    tx.mod("a") > 1, tx.mod("a") == 0,
]:
    client.transaction(
        compare=[compare],
        success=[tx.put("b", "1"), tx.get("a"), tx.delete("c"), tx.txn(compare=[compare], success=[tx.get("b")], failure=[])],
        failure=[tx.delete("d")],
    )
events, cancel = client.watch_prefix("w", prev_kv=True, progress_notify=True)
client.put("w1", "x")
client.delete("w1")
next(events)
cancel()
events, cancel = client.watch("a", start_revision=2)
next(events)
cancel()
lease = client.lease(600)
client.put("leased", "x", lease=lease)
lease.refresh()
lease.remaining_ttl
lease.granted_ttl
lease.keys
lease.revoke()
lease = client.lease(600, lease_id=1234)
client.revoke_lease(1234)
with client.lock("lock", ttl=10) as lock:
    lock.refresh()
    lock.is_acquired()
client.delete("a", prev_kv=True)
client.delete("a", return_response=True)
client.delete_prefix("w")
client.status()
for member in client.members:
    member.update(list(member.peer_urls))
list(client.list_alarms())
client.create_alarm(0)
client.disarm_alarm(0)
client.defragment()
client.hash()
client.compact(2)
client.compact(3, physical=True)
with open("saved.db", "wb") as file:
    client.snapshot(file)
client.close()
