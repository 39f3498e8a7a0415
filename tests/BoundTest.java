import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.net.InetAddress;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;

import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Knocks that are bound to an address: when a client binds, what a server takes, and an attack that
 * unbound ones allow.
 */
class BoundTest extends InLab {
    private static final String ATTACKER = "198.51.100.66";
    @BeforeEach
    void startLab() throws Exception {
        lab.profile("laptop", 666, Lab.SERVER);
        lab.must("ln", "-s", lab.clientProfile(Lab.SERVER).toString(),
                lab.clientProfile(Lab.SERVER6).toString());
    }

    private static String bound(String setting, String own, String target) throws Exception {
        var source = switch (setting) {
            case "any" -> Profile.Source.Rule.ANY;
            case "bound" -> Profile.Source.Rule.BOUND;
            case "" -> Profile.Source.Rule.IF_PUBLIC;
            default -> new Profile.Source.Other(InetAddress.ofLiteral(setting));
        };
        var bytes = KnockSender.bound(source, InetAddress.ofLiteral(own),
                InetAddress.ofLiteral(target));
        return bytes.length == 0 ? "none" : InetAddress.getByAddress(bytes).getHostAddress();
    }

    @ParameterizedTest
    @ValueSource(strings = {"10.1.2.3", "100.64.0.1", "100.127.255.255", "127.0.0.1", "169.254.1.1",
            "172.16.0.1", "172.31.255.255",
        "192.0.0.2", "192.0.2.2", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1",
                "203.0.113.1", "0.1.2.3", "240.0.0.1",
        "fe80::1", "fd00::1", "fc00::1", "::1", "2001:db8::1", "3fff:fff::1", "fec0::1"})
    void anAddressThatSomebodyMayTranslateIsNotBoundByItself(String own) throws Exception {
        assertEquals("none", bound("", own, own));
        assertEquals(InetAddress.ofLiteral(own).getHostAddress(), bound("bound", own, own));
    }

    @ParameterizedTest
    @ValueSource(strings = {"8.8.8.8", "1.1.1.1", "9.255.255.255", "11.0.0.1", "100.63.255.255",
            "100.128.0.1", "172.15.0.1", "172.32.0.1",
        "192.0.1.1", "192.0.3.1", "192.167.1.1", "198.17.0.1", "198.20.0.1", "203.0.112.1",
                "223.255.255.255", "2600:1f18::5", "2a02::9",
        "2001:db7::1", "2001:db9::1", "3ffe::1", "3fff:1000::1"})
    void aPublicAddressIsBoundByItself(String own) throws Exception {
        assertEquals(InetAddress.ofLiteral(own).getHostAddress(), bound("", own, own));
        assertEquals("none", bound("any", own, own));
    }

    @Test
    void anAddressThatIsGivenCountsForItsOwnIpVersion() throws Exception {
        assertEquals("203.0.113.7", bound("203.0.113.7", "10.0.0.1", "8.8.8.8"));
        assertEquals("2a02:0:0:0:0:0:0:9", bound("203.0.113.7", "2a02::9", "2600::1"));
        assertEquals("none", bound("203.0.113.7", "fd00::1", "2600::1"));
        assertEquals("none", bound("", "2a02::9", "64:ff9b::808:808"), "NAT64 will translate it");
    }

    @ParameterizedTest
    @CsvSource({
        "cover, --source, 192.0.2.2, true",
        "cover, --source, 192.0.2.9, false", // not where the packet comes from
        "cover, --any-source, , true",
        "cover, source = bound, , true",
        "classic, source = bound, , true"}) // never bound
    void whatTheOptionsAndTheProfileSayIsWhatTheServerFinds(String carrier, String how,
            String address, boolean opens) throws Exception {
        lab.addSetting(lab.clientProfile(Lab.SERVER), "carrier = " + carrier);
        lab.startDaemon();
        var arguments = new ArrayList<String>();
        if (how.startsWith("--")) {
            arguments.add(how);
        } else {
            lab.addSetting(lab.clientProfile(Lab.SERVER), how);
        }
        if (address != null) {
            arguments.add(address);
        }
        arguments.addAll(List.of("-p", "22", Lab.SERVER));
        lab.must(lab.knockCommand(arguments.toArray(String[]::new)));
        Lab.await("the knock", () -> lab.said().lines().count() == 2);
        assertEquals(opens ? 1 : 0, lab.said("opened port 22 for " + Lab.CLIENT), lab.said());
    }

    @Test
    void aServerThatTakesBoundKnocksOnlyRefusesOthersAndLeavesTheCounterAsItIs() throws Exception {
        lab.addSetting(lab.dir.resolve("profiles/laptop"), "source = bound");
        lab.startDaemon();
        for (var server : List.of(Lab.SERVER, Lab.SERVER6)) {
            long before = lab.said("opened");
            lab.must(lab.knockCommand("--any-source", "-p", "22", server));
            lab.must(lab.knockCommand("--source", server.equals(Lab.SERVER) ? Lab.CLIENT
                    : Lab.CLIENT6, "-p", "23", server));
            Lab.await("the bound one", () -> lab.said("opened port 23") == before + 1);
            assertEquals(0, lab.said("opened port 22"), lab.said());
        }
        assertEquals(1, lab.said("or bound to another address"), "one complaint in ten seconds");
    }

    /** A host beside the client, from which packets may claim any source. */
    private void addAttacker() throws Exception {
        lab.must("ip", "netns", "add", "attacker");
        lab.must("ip", "link", "add", "kk1", "netns", "attacker", "type", "veth", "peer", "name",
                "kk1", "netns", "server");
        for (var host : List.of(List.of("server", "198.51.100.1/24"),
                List.of("attacker", ATTACKER + "/24"))) {
            lab.must("ip", "-n", host.get(0), "address", "add", host.get(1), "dev", "kk1");
            lab.must("ip", "-n", host.get(0), "link", "set", "kk1", "up");
        }
        lab.must("ip", "-n", "attacker", "route", "add", "default", "via", "198.51.100.1");
        lab.mustOn("server", "sh", "-c",
                "for f in all kk1 default; do sysctl -q -w net.ipv4.conf.$f.rp_filter=0; done");
    }

    @ParameterizedTest
    @ValueSource(strings = {"any", "bound"})
    void aKnockThatAFloodHidesOpensForWhoeverReplaysItUnlessItIsBound(
            String source) throws Exception {
        lab.addSetting(lab.clientProfile(Lab.SERVER), "source = " + source);
        lab.serve(22);
        lab.startDaemon();
        addAttacker();
        try {
            var flood = lab.start(lab.work.resolve("flood"),
                    Lab.on("attacker", "timeout", "20", "hping3", "-q", "-S", "-i", "u300",
                    "-c", "60000", "-a", Lab.CLIENT, "-p", "666", Lab.SERVER));
            Lab.await("the flood", () -> lab.said("from " + Lab.CLIENT + " refused") == 1);
            byte[] hidden = null;
            for (int i = 1; hidden == null; i++) { // one in some sixty gets through
                assertTrue(i < 6, "the flood hides nothing");
                long before = lab.said("opened");
                var packet = captured();
                Thread.sleep(500); // for a knock that was logged to be acted on
                hidden = lab.said("opened") == before ? packet : null;
            }
            flood.destroy();
            flood.waitFor();
            lab.mustOn("attacker", "python3", "-c", """
                    import socket, struct, sys
                    packet = bytearray.fromhex(sys.argv[1])
                    packet[12:16] = socket.inet_aton(sys.argv[2])
                    packet[36:38] = bytes(2)
                    words = packet[12:20] + struct.pack('>HH', 6, len(packet) - 20) + packet[20:]
                    total = sum(struct.unpack('>%dH' % (len(words) // 2), words))
                    total = (total & 0xffff) + (total >> 16)
                    packet[36:38] = struct.pack('>H', ~(total + (total >> 16)) & 0xffff)
                    socket.socket(socket.AF_INET, socket.SOCK_RAW, 255).sendto(packet, \
                    (sys.argv[3], 0))
                    """, HexFormat.of().formatHex(hidden), ATTACKER, Lab.SERVER);
            if (source.equals("any")) {
                Lab.await("the replay", () -> lab.said("opened port 22 for " + ATTACKER) == 1);
                assertEquals(0, lab.run(Lab.on("attacker", "nc", "-z", "-w", "1", Lab.SERVER, "22"))
                        .exit(), "let in");
            } else {
                lab.must(lab.knockCommand("-p", "22", Lab.SERVER)); // behind the replay in the log
                Lab.await("the client", () -> lab.said("opened port 22 for " + Lab.CLIENT) == 1);
                assertEquals(0, lab.said("opened port 22 for " + ATTACKER), lab.said());
                assertFalse(lab.run(Lab.on("attacker", "nc", "-z", "-w", "1", Lab.SERVER, "22"))
                        .exit() == 0, "kept out");
            }
        } finally {
            lab.run(List.of("ip", "netns", "del", "attacker"));
        }
    }

    /** Knocks, and returns the packet as it arrives. */
    private byte[] captured() throws Exception {
        var file = lab.work.resolve("knock.pcap");
        var capture = lab.captureOne(file, "tcp dst port 666");
        lab.must(lab.knockCommand("-p", "22", Lab.SERVER));
        capture.await();
        return WireTest.packets(file).getFirst();
    }
}
