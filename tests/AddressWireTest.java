import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Pattern;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** The carrier "address" as others see it: replays, neighbours, the packet itself; and knock.sh. */
class AddressWireTest extends InRoutedNetwork {
    @Test
    void boundReplayedFromElsewhereAndAfterARestart() throws Exception {
        lab.addSetting(lab.clientProfile(HOST), "source = bound");
        lab.must("ip", "-n", "client", "address", "add", "2001:db8::3/64", "dev", "kk0", "nodad",
                "preferred_lft", "0");
        startServer();
        var syns = syns("tcp dst port 666", 0.2, () -> {
            knockAsAlice();
            awaitOpened(1);
        });
        assertEquals(1, syns.size(), syns.toString());
        var knock = Pattern.compile("> (\\S+)\\.666: ").matcher(syns.getFirst());
        assertTrue(knock.find(), syns.toString());
        assertOpensOnce();
        sendSyn(null, knock.group(1));
        Lab.await(lab::said, () -> lab.said("refused") == 1);
        lab.stopDaemon();
        lab.startDaemon();
        sendSyn("2001:db8::3", knock.group(1)); // neither from elsewhere
        Lab.await(lab::said, () -> lab.said("from 2001:db8:0:0:0:0:0:3 refused") == 1);
        assertEquals(0, lab.said("opened"));

        // One that the server never saw is no use to another address.
        var codec = Lab.credentials(lab.dir.resolve("profiles/laptop")).codec();
        var own = InetAddress.ofLiteral(Lab.CLIENT6).getAddress();
        var next = KnockCodec.address(InetAddress.ofLiteral(HOST),
                codec.seal(22, 40, Carrier.ADDRESS, own)).getHostAddress();
        sendSyn("2001:db8::3", next);
        sendSyn(null, next);
        awaitOpened(1);
        assertOpensOnce();
    }

    /** An ordinary connection to a knock port, given up before its SYN is repeated. */
    private void sendSyn(String from, String to) throws Exception {
        lab.run(Lab.on("client", "sh", "-c", "exec timeout 0.5 nc -6 -z "
                + (from == null ? "" : "-s " + from) + " " + to + " 666"));
    }

    @Test
    void nobodyIsAnsweredAndOtherPortsAndAddressesAreLeftAlone() throws Exception {
        lab.must("ip", "-n", "server", "address", "add", "2001:db8:1:2::5/64", "dev", "kk0",
                "nodad");
        lab.must("ip", "-n", "server", "address", "add", "2001:db8:1:3::5/64", "dev", "kk0",
                "nodad");
        lab.must("ip", "-n", "client", "route", "add", "2001:db8:1:3::/64", "via", Lab.SERVER6);
        lab.mustOn("server", "ip6tables", "-I", "INPUT", "-p", "tcp", "--dport", "666", "-j",
                "ACCEPT");
        lab.mustOn("server", "sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1");
        lab.mustOn("server", "ip6tables", "-P", "FORWARD", "ACCEPT");
        lab.start(lab.work.resolve("service"),
                Lab.on("server", "nc", "-lk6", "2001:db8:1:2::5", "666"));
        Lab.await("the service", () -> lab.mustOn("server", "ss", "-Hltn", "sport = :666").lines()
                .count() == 1);
        startServer();
        assertTrue(lab.connects("2001:db8:1:2::5", 666), "an address of this host");
        var unanswered = lab.run(Lab.on("client", "nc", "-zv", "-w", "5", "2001:db8:1:2::77",
                "666"));
        assertTrue(unanswered.err().contains("timed out"), unanswered.err());
        assertEquals(1, lab.said("from 2001:db8:0:0:0:0:0:2 refused"), lab.said());
        var forwarded = lab.run(Lab.on("client", "nc", "-zv", "-w", "5", "2001:db8:1:2::77",
                "667"));
        // as a router says, after three seconds
        assertTrue(forwarded.err().contains("No route to host"), forwarded.err());

        // The knock's bytes in another network are none.
        var codec = Lab.credentials(lab.dir.resolve("profiles/laptop")).codec();
        var elsewhere = KnockCodec.address(InetAddress.ofLiteral("2001:db8:1:3::1"),
                codec.seal(22, 5, Carrier.ADDRESS, KnockCodec.UNBOUND));
        lab.must("ip", "-n", "server", "address", "add", elsewhere.getHostAddress() + "/64", "dev",
                "kk0", "nodad");
        sendSyn(null, elsewhere.getHostAddress()); // an address of this host, and so it is logged
        knockAsAlice();
        awaitOpened(1);
        assertEquals(1, lab.said("opened"), lab.said());
    }

    @Test
    void aCoverKnockToAnyAddressOfTheHostStillOpens() throws Exception {
        lab.must("ip", "-n", "server", "address", "add", "2001:db8:1:2::5/64", "dev", "kk0",
                "nodad");
        startServer();
        lab.must("sed", "-i", "/carrier/d", lab.clientProfile(HOST).resolve("config").toString());
        lab.must("ln", "-s", lab.clientProfile(HOST).toString(),
                lab.clientProfile("2001:db8:1:2::5").toString());
        lab.must(lab.knockCommand("-p", "22", HOST));
        awaitOpened(1);
        lab.must(lab.knockCommand("-p", "22", "2001:db8:1:2::5"));
        awaitOpened(2);
    }

    @Test
    void errorsSayWhatIsMissing() throws Exception {
        startServer();
        lab.must("cp", "-a", lab.clientProfile(HOST).toString(),
                lab.clientProfile(Lab.SERVER).toString());
        var four = lab.run(asAliceAlone(script("knockknock", "-p", "22", Lab.SERVER)));
        assertEquals(new Lab.Result(1, "", "knockknock: 192.0.2.1 has no IPv6 address\n"), four);
        var version4 = lab.run(asAliceAlone(script("knockknock", "-4", "-p", "22", Lab.SERVER)));
        assertEquals(new Lab.Result(1, "",
                "knockknock: 192.0.2.1 has no IPv6 address of its own, which the carrier "
                + "address needs\n"), version4);
        assertEquals("0000000000\n", Files.readString(lab.clientProfile(Lab.SERVER)
                .resolve("counter")));
        var closed = lab.run(asAliceAlone(script("knockknock", "-p", "23", HOST)));
        assertTrue(closed.err().contains("does not open port 23"), closed.err());
        lab.must("ip", "-n", "client", "route", "del", "2001:db8:1:2::/64");
        var noRoute = lab.run(asAliceAlone(script("knockknock", "-p", "22", HOST)));
        assertEquals(1, noRoute.exit());
        assertTrue(noRoute.err().startsWith("knockknock: no route to 2001:db8:1:2:0:0:0:1 ("),
                noRoute.err());
        assertEquals("0000000000\n", Files.readString(lab.clientProfile(HOST).resolve("counter")));

        lab.config("knock_address = 2001:db8:9::1");
        var check = lab.check();
        assertTrue(check.out().contains("problem  knock_address 2001:db8:9:0:0:0:0:1 is no "
                + "address of this host"), check.out());
        for (var bad : List.of("192.0.2.1", "fe80::1", "::1", "ff02::1", "example.org", "::", "")) {
            lab.config("knock_address = " + bad);
            var refused = lab.run(Lab.on("server",
                    lab.script("knockknock-daemon", "--dir", lab.dir.toString())));
            assertEquals(1, refused.exit());
            assertTrue(refused.err().contains("knock_address = " + bad
                    + ": give this host's IPv6 address"), refused.err());
        }
    }

    /** A profile without open_ports opens nothing for 64 bits. */
    @Test
    void withoutOpenPortsTheServerSaysThatTheyAreMissing() throws Exception {
        lab.must("sed", "-i", "/open_ports/d",
                lab.dir.resolve("profiles/laptop/config").toString());
        startServer();
        knockAsAlice();
        Lab.await(lab::said, () -> lab.said("refused: ") == 1);
        assertTrue(lab.said().contains("knocks in an address open only if the profile has "
                + "open_ports"), lab.said());
    }

    @Test
    void onTheWireItAndTheConnectionBehindItDifferInNothingButWhereTheyGo() throws Exception {
        lab.config("delay = 15\nknock_address = " + HOST);
        startServer();
        var files = List.of(lab.work.resolve("knock.pcap"), lab.work.resolve("connection.pcap"));
        for (var file : files) {
            var capture = lab.captureOne(file,
                    "ip6 and tcp[13] == 2 or ip6 and ip6[6] == 6 and ip6[53] == 2");
            if (file.equals(files.getFirst())) {
                knockAsAlice();
                awaitOpened(1);
            } else {
                assertTrue(lab.connects(HOST, 22));
            }
            capture.await();
        }
        var constant = new ArrayList<String>();
        var described = new ArrayList<String>();
        var parities = new ArrayList<Integer>();
        for (var file : files) {
            var packet = WireTest.packets(file).getFirst();
            parities.add(packet[41] & 1);
            // the address's lower half, the port
            ByteBuffer.wrap(packet).putLong(32, 0).putShort(42, (short) 0);
            constant.add(WireTest.constantBytes(packet));
            described.add(WireTest.p0f(lab, file));
        }
        assertEquals(constant.get(1), constant.get(0));
        assertEquals(parities.get(1), parities.get(0),
                "of the source ports, which a kernel chooses otherwise for a socket that is bound");
        assertEquals(described.get(1), described.get(0));
    }

    @ParameterizedTest
    @ValueSource(strings = {"bash", "dash", "busybox sh"})
    void theShellKnocksAsJavaDoesAndEachOpensWhatTheOtherSeals(String shell) throws Exception {
        lab.config("delay = 15\nknock_address = " + HOST);
        startServer();
        var knockSh = Files.copy(Path.of("knock.sh"), lab.work.resolve("knock.sh"));
        var command = new ArrayList<>(List.of(shell.split(" ")));
        command.addAll(List.of(knockSh.toString(), "22", HOST));
        command.addAll(0, List.of("env", "HOME=" + lab.home, "http_proxy=http://127.0.0.1:9",
                "ALL_PROXY=socks5://127.0.0.1:9"));
        Files.writeString(lab.home.resolve(".curlrc"), "retry = 2\n");
        lab.must("chmod", "755", knockSh.toString());
        var syns = syns("not host " + HOST + " and tcp", 1.5, () -> {
            for (int i = 1; i <= 3; i++) {
                var ran = lab.run(asAliceAlone(command));
                assertEquals(new Lab.Result(0, "", ""), ran);
                awaitOpened(i);
                assertOpensOnce();
            }
        });
        assertEquals(3, syns.size(), syns.toString());
        assertEquals("0000000003\n", Files.readString(lab.clientProfile(HOST).resolve("counter")));
        knockAsAlice();
        awaitOpened(4);
        lab.addSetting(lab.clientProfile(HOST), "source = bound");
        lab.addSetting(lab.dir.resolve("profiles/laptop"), "source = bound");
        lab.stopDaemon();
        lab.startDaemon();
        lab.must(asAliceAlone(command));
        awaitOpened(1);
        assertTrue(lab.connects(HOST, 22));

        for (var bad : List.of("22x", "0", "65536", "23", "080")) {
            command.set(command.size() - 2, bad);
            var refused = lab.run(asAliceAlone(command));
            assertEquals(1, refused.exit());
            assertTrue(refused.err().startsWith("knock.sh: ") && refused.err().contains(bad),
                    refused.err());
        }
        command.set(command.size() - 2, "22");
        Files.writeString(lab.clientProfile(HOST).resolve("counter"), "x\n");
        assertTrue(lab.run(asAliceAlone(command)).err().contains("counter is damaged"));
        Files.writeString(lab.clientProfile(HOST).resolve("counter"), "4294967296\n");
        assertTrue(lab.run(asAliceAlone(command)).err().contains("are used up"));
        lab.must("chmod", "644", lab.clientProfile(HOST).resolve("mac.key").toString());
        assertTrue(lab.run(asAliceAlone(command)).err().contains("mac.key is open to other users"));
        lab.must("chmod", "600", lab.clientProfile(HOST).resolve("mac.key").toString());
        lab.addSetting(lab.clientProfile(HOST), "source = 1:2:3");
        assertTrue(lab.run(asAliceAlone(command)).err().contains("config: "),
                "a source that is none");
        lab.must("sed", "-i", "$d", lab.clientProfile(HOST).resolve("config").toString());
        Files.createDirectory(lab.clientProfile(HOST).resolve("lock"));
        assertTrue(lab.run(asAliceAlone(command)).err().contains("rmdir "));
        assertTrue(Files.exists(lab.clientProfile(HOST).resolve("lock")));
        Files.writeString(lab.clientProfile(HOST).resolve("mac.key"), "AAAA\n");
        assertTrue(lab.run(asAliceAlone(command)).err().contains("mac.key is damaged"));
    }
}
