import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Files;
import java.util.List;

import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * Knocks over networks as people have them: through translators, and from hosts with two ways out.
 */
class NetworkTest extends InLab {
    @AfterEach
    void removeTheThirdHost() throws Exception {
        lab.run(List.of("ip", "netns", "del", "inside"));
    }

    private String sh(String text) throws Exception {
        return lab.must("env", "W=" + lab.work, "sh", "-euc", text);
    }

    /**
     * A phone behind the client, which is the provider's NAT64 (RFC 6146) here: the phone has IPv6
     * only. It also has a
     * CLAT (RFC 6877), for programs that know IPv4 only. 192.0.2.1 is 2001:db8:64::c000:201 to it.
     */
    private void startTranslators() throws Exception {
        sh("""
                ip netns add inside
                ip link add lan0 netns inside type veth peer name lan0 netns client
                ip -n inside link set lo up
                ip -n inside address add 2001:db8:1::2/64 dev lan0 nodad; ip -n inside link set \
                lan0 up
                ip -n client address add 2001:db8:1::1/64 dev lan0 nodad; ip -n client link set \
                lan0 up
                ip -n inside -6 route add default via 2001:db8:1::1
                ip -n client -6 route add 2001:db8:1::c1a7/128 via 2001:db8:1::2
                ip netns exec client sysctl -q -w net.ipv4.ip_forward=1 \
                net.ipv6.conf.all.forwarding=1
                ip netns exec inside sysctl -q -w net.ipv4.ip_forward=1 \
                net.ipv6.conf.all.forwarding=1
                ip -n server route add 198.51.100.0/24 via 192.0.2.2
                mkdir $W/plat $W/clat
                printf '%s\\n' 'tun-device plat' 'ipv4-addr 198.51.100.1' 'prefix \
                2001:db8:64::/96' \
                    'dynamic-pool 198.51.100.128/25' "data-dir $W/plat" > $W/plat.conf
                printf '%s\\n' 'tun-device clat' 'ipv4-addr 192.0.0.2' 'prefix 2001:db8:64::/96' \
                    'map 192.0.0.1 2001:db8:1::c1a7' "data-dir $W/clat" > $W/clat.conf
                ip netns exec client tayga --config $W/plat.conf --mktun
                ip netns exec inside tayga --config $W/clat.conf --mktun
                ip -n client link set plat up; ip -n inside link set clat up
                ip -n client route add 198.51.100.0/24 dev plat
                ip -n client -6 route add 2001:db8:64::/96 dev plat
                ip -n inside address add 192.0.0.1/32 dev clat; ip -n inside route add default dev \
                clat
                ip -n inside -6 route add 2001:db8:1::c1a7/128 dev clat
                """);
        lab.start(lab.work.resolve("plat.out"),
                Lab.on("client", "tayga", "--config", lab.work + "/plat.conf", "--nodetach"));
        lab.start(lab.work.resolve("clat.out"),
                Lab.on("inside", "tayga", "--config", lab.work + "/clat.conf", "--nodetach"));
    }

    @ParameterizedTest
    @CsvSource({
        "2001:db8:64::c000:201, true", "2001:db8:64::c000:201, false", // an IPv6-only phone
        "192.0.2.1, true", "192.0.2.1, false"}) // a program on it that knows IPv4 only
    void aKnockThroughATranslatorOpensWhereThePortsAreNamedAndElsewhereTheDaemonSaysWhatHelps(
            String host, boolean openPorts)
            throws Exception {
        lab.profile("phone", 6640, host);
        if (openPorts) {
            lab.addSetting(lab.dir.resolve("profiles/phone"), "open_ports = 22");
        }
        lab.serve(22);
        lab.startDaemon();
        startTranslators();
        Lab.await("the way through", () ->
                lab.run(Lab.on("inside", "ping", "-c", "1", "-W", "1", host)).exit() == 0);
        for (int i = 1; i <= 2; i++) {
            lab.must(Lab.on("inside", Lab.withNetRaw(lab.script("knockknock", "-p", "22", host))));
            if (openPorts) {
                int count = i;
                Lab.await(() -> "the knock: " + lab.said(),
                        () -> lab.said("opened port 22 for 198.51.100.") == count);
                assertEquals(0, lab.run(Lab.on("inside", "nc", "-z", "-w", "3", host, "22")).exit(),
                        "let in");
            }
        }
        if (openPorts) {
            assertNotEquals(0, lab.run(Lab.on("inside", "nc", "-z", "-w", "1", host, "22")).exit(),
                    "closed again");
        } else {
            Lab.await("the refusal", () -> lab.said("a translator (NAT64) on its way") == 1);
            assertTrue(lab.said().contains("such knocks open only if the profile has open_ports"),
                    lab.said());
            assertEquals(0, lab.said("opened"));
        }
    }

    /**
     * A second wire between both hosts, and on the client a route for each of its two addresses.
     */
    private void addSecondWay() throws Exception {
        sh("""
                ip link add kk1 netns client type veth peer name kk1 netns server
                ip -n client address add 198.51.100.2/24 dev kk1; ip -n client link set kk1 up
                ip -n server address add 198.51.100.1/24 dev kk1; ip -n server link set kk1 up
                ip -n server address add 203.0.113.1/32 dev lo
                ip -n client rule add from 192.0.2.2 table 100; ip -n client rule add from \
                198.51.100.2 table 101
                ip -n client route add 203.0.113.1 via 192.0.2.1 table 100
                ip -n client route add 203.0.113.1 via 198.51.100.1 table 101
                for host in client server; do
                    for f in all kk0 kk1; do ip netns exec $host sysctl -q -w \
                net.ipv4.conf.$f.rp_filter=0; done
                done
                """);
    }

    @Test
    void aKnockLeavesFromTheAddressThatFromNamesAndByItsWayAndIsBoundToIt() throws Exception {
        lab.profile("laptop", 6641, "203.0.113.1");
        lab.addSetting(lab.clientProfile("203.0.113.1"), "source = bound");
        addSecondWay();
        sh("ip -n client route add 203.0.113.1 via 192.0.2.1");
        lab.startDaemon();
        var capture = lab.capture("-i", "kk1", "tcp dst port 6641");
        int port = 21;
        for (var from : List.of("192.0.2.2", "198.51.100.2")) {
            int open = ++port;
            lab.must(lab.knockCommand("--from", from, "-p", "" + open, "203.0.113.1"));
            Lab.await(() -> "the knock: " + lab.said(),
                    () -> lab.said("opened port " + open + " for " + from + ",") == 1);
        }
        Lab.await("the second way", () -> capture.text().contains("IP 198.51.100.2."));
        capture.end();
        assertEquals(1, capture.text().lines().filter(line -> line.contains("Flags [S]")).count());

        var wrong = lab.run(List.of(lab.knockCommand("--from", "192.0.2.77", "-p", "22",
                "203.0.113.1")));
        assertEquals(new Lab.Result(1, "", "knockknock: 192.0.2.77 is no address of this host:"
                + " 'ip address' lists them\n"), wrong);
        var otherVersion = lab.run(List.of(lab.knockCommand("--from", "2001:db8::2", "-p", "22",
                "203.0.113.1")));
        assertEquals(new Lab.Result(1, "",
                "knockknock: no address of 203.0.113.1 is of that IP version\n"), otherVersion);
    }

    @Test
    void tenConnectionsThroughTheProxyAllGetInWhereTheKernelSpreadsThemOverTwoWays(
            ) throws Exception {
        lab.profile("laptop", 6642, "203.0.113.1");
        addSecondWay();
        sh("""
                ip -n client route add 203.0.113.1 nexthop via 192.0.2.1 nexthop via 198.51.100.1
                ip netns exec client sysctl -q -w net.ipv4.fib_multipath_hash_policy=1
                """);
        lab.start(lab.work.resolve("service"), Lab.on("server", "nc", "-lk", "203.0.113.1", "22"));
        lab.startDaemon();
        var said = lab.work.resolve("proxy.out");
        lab.start(said, Lab.on("client", Lab.withNetRaw(lab.script("knockknock-proxy", "1080"))));
        Lab.await("the proxy", () -> Files.readString(said).contains("ready:"));
        for (int i = 0; i < 10; i++) {
            lab.must(Lab.on("client", "nc", "-z", "-X", "5", "-x", "127.0.0.1:1080", "203.0.113.1",
                    "22"));
        }
        assertEquals(10, lab.said("opened port 22"), lab.said());
    }

    @Test
    void anOrdinaryAddressThatIsOnNoInterfaceIsAKnocksSourceToo() throws Exception {
        lab.profile("laptop", 6643, Lab.SERVER);
        sh("""
                ip -n client route add local 198.51.100.0/24 dev lo
                ip -n client route replace 192.0.2.0/24 dev kk0 src 198.51.100.9
                ip -n server route add 198.51.100.0/24 via 192.0.2.2
                """);
        lab.startDaemon();
        lab.must(lab.knockCommand("-p", "22", Lab.SERVER));
        Lab.await("the knock", () -> lab.said("opened port 22 for 198.51.100.9") == 1);
    }
}
