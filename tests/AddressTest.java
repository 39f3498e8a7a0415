import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Optional;
import java.util.regex.Pattern;

import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvFileSource;
import org.junit.jupiter.params.provider.ValueSource;

/** The carrier "address": the knock is where an ordinary connection goes to, in a /64 that is routed to the server. */
class AddressTest extends InLab {
    private static final String HOST = "2001:db8:1:2::1";
    private static final String OPENED = "opened port 22 for 2001:db8:0:0:0:0:0:2, profile laptop";
    private static final HexFormat HEX = HexFormat.of();
    @BeforeEach
    void startLab() throws Exception {
        lab.must("ip", "-n", "server", "address", "add", HOST + "/64", "dev", "kk0", "nodad");
        lab.must("ip", "-n", "client", "route", "add", "2001:db8:1:2::/64", "via", Lab.SERVER6);
        lab.must(lab.script("knockknock-genprofile", "--dir", lab.dir.toString(), "--open", "22,53/udp", "laptop", "666"));
        lab.must("cp", "-a", lab.dir + "/profiles/laptop", lab.clientProfile(HOST).toString());
        lab.addSetting(lab.clientProfile(HOST), "carrier = address");
        lab.config("delay = 3\nknock_address = " + HOST);
    }

    private void startServer() throws Exception {
        lab.serve(22);
        lab.startDaemon();
    }

    /** On the client, as one for whom there is no sudo and no capability in reach. */
    private List<String> asAliceAlone(List<String> command) throws Exception {
        var all = new ArrayList<>(lab.asAlice(command));
        all.addAll(all.indexOf("setpriv") + 1, List.of("--bounding-set=-all", "--no-new-privs"));
        all.add(all.indexOf("USER=alice"), "HOME=" + lab.home);
        all.addAll(0, List.of("unshare", "--mount", "sh", "-c", "mount --bind /dev/null $(command -v sudo) && exec \"$@\"", "sh"));
        return all;
    }

    private List<String> script(String name, String... arguments) throws Exception {
        return lab.readable(lab.script(name, arguments));
    }

    private String knockAsAlice() throws Exception {
        return lab.must(asAliceAlone(script("knockknock", "-p", "22", HOST)));
    }

    private void assertOpensOnce() throws Exception {
        assertTrue(lab.connects(HOST, 22), lab.said());
        assertFalse(lab.connects(HOST, 22));
    }

    private void awaitOpened(int times) throws Exception {
        Lab.await(() -> times + " times " + OPENED + ": " + lab.said(), () -> lab.said(OPENED) == times);
    }

    /** What tcpdump prints of SYNs from the client to the network while something is done, and a little longer. */
    private List<String> syns(String filter, double seconds, Action action) throws Exception {
        var capture = lab.capture("-Q", "in", "-i", "kk0", "ip6 and dst net 2001:db8:1:2::/64 and " + filter);
        action.run();
        Thread.sleep((long) (seconds * 1000)); // the time is what is tested: a kernel repeats a SYN after one, three and seven seconds
        capture.end();
        return capture.text().lines().filter(line -> line.contains(" > ")).toList();
    }

    private interface Action {
        void run() throws Exception;
    }

    @ParameterizedTest
    @CsvFileSource(files = "tests/vectors-address.csv", numLinesToSkip = 1)
    void theVectorsHoldBothWays(String cipherKey, String macKey, long counter, int port, String source, String server, String sealed, String address) {
        var codec = new KnockCodec(HEX.parseHex(cipherKey), HEX.parseHex(macKey));
        var bound = source == null ? KnockCodec.UNBOUND : InetAddress.ofLiteral(source).getAddress();
        var fields = codec.seal(port, counter, Carrier.ADDRESS, bound);
        var knock = KnockCodec.address(InetAddress.ofLiteral(server), fields);
        assertEquals(InetAddress.ofLiteral(address), knock);
        assertEquals(sealed, HEX.formatHex(knock.getAddress(), 8, 16));

        var here = source == null ? InetAddress.ofLiteral("2001:db8::99").getAddress() : bound;
        var request = Optional.of(new KnockWindow.Request(port, counter));
        assertEquals(request, open(codec, knock, here, counter, CodecTest.terms(9, false, 1, port)));
        assertEquals(source == null ? Optional.empty() : request, open(codec, knock, here, counter, CodecTest.terms(9, true, port)));
        assertEquals(Optional.empty(), open(codec, knock, here, counter + 1, CodecTest.terms(9, false, port)), "a replay");
        assertEquals(Optional.empty(), open(codec, knock, here, counter, CodecTest.terms(9, false)), "any port");
        assertEquals(Optional.empty(), open(codec, knock, here, counter, CodecTest.terms(9, false, port == 1 ? 2 : 1)), "another port");
        if (source != null) {
            assertEquals(Optional.empty(), open(codec, knock, InetAddress.ofLiteral("2001:db8::99").getAddress(), counter, CodecTest.terms(9, false, port)));
        }
        for (int bit = 64; bit < 128; bit++) {
            var flipped = knock.getAddress();
            flipped[bit / 8] ^= (byte) (0x80 >> bit % 8);
            assertEquals(Optional.empty(), new KnockWindow(codec, CodecTest.terms(9, false, port), counter).open(flipped, here), "bit " + bit);
        }
    }

    @Test
    void theVectorsInTheProtocolDocumentAreAmongThem() throws Exception {
        var known = Files.readString(Path.of("tests/vectors-address.csv"));
        var rows = Pattern.compile("\\| ([0-9a-f]{32}) \\| ([0-9a-f]{32}) \\| (\\d+) \\| (\\d+) \\| (\\S+) \\| (\\S+) \\| ([0-9a-f]{4}(?::[0-9a-f]{4}){7}) \\|")
                .matcher(Files.readString(Path.of("PROTOCOL.md"))).results().toList();
        assertEquals(4, rows.size());
        for (var row : rows) {
            var start = String.join(",", row.group(1), row.group(2), row.group(3), row.group(4), row.group(5).replace("none", ""), row.group(6));
            assertTrue(Pattern.compile("(?m)^" + start + ",[0-9a-f]{16}," + row.group(7) + "$").matcher(known).find(), row.group());
        }
    }

    private static Optional<KnockWindow.Request> open(KnockCodec codec, InetAddress knock, byte[] source, long next, KnockWindow.Terms terms) {
        return new KnockWindow(codec, terms, Math.min(next, Counter.LAST + 1)).open(knock.getAddress(), source);
    }

    @Test
    void amongAMillionForgeriesNoneOpens() {
        var codec = new KnockCodec(new byte[16], new byte[16]);
        var window = new KnockWindow(codec, CodecTest.terms(10_000, false, 22), 0);
        var right = KnockCodec.address(InetAddress.ofLiteral(HOST), codec.seal(22, 77, Carrier.ADDRESS, KnockCodec.UNBOUND)).getAddress();
        var random = new java.util.Random(19);
        for (int i = 0; i < 1_000_000; i++) { // with the right port, and so 48 bits to guess
            var forged = right.clone();
            ByteBuffer.wrap(forged).putInt(10, random.nextInt()).putShort(14, (short) random.nextInt());
            assertTrue(window.open(forged, new byte[16]).isEmpty() || java.util.Arrays.equals(forged, right));
        }
        assertEquals(Optional.of(new KnockWindow.Request(22, 77)), window.open(right, new byte[16]));
    }

    @Test
    void anOrdinaryUserWithoutSudoAndCapabilityKnocksWithOneSynThatIsNotRepeated() throws Exception {
        startServer();
        assertTrue(lab.said().contains("ready: knock ports 666 and addresses 2001:db8:1:2:0:0:0:0/64, log"), lab.said());
        assertFalse(lab.connects(HOST, 22));
        lab.mustOn("server", "ip6tables", "-t", "raw", "-A", "PREROUTING", "-p", "tcp", "--dport", "666", "-j", "LOG", "--log-tcp-sequence",
                "--log-tcp-options", "--log-ip-options"); // a copy of each line, as a host's own rule makes it
        var syns = syns("tcp and not host " + HOST, 7.5, () -> {
            assertEquals("", knockAsAlice());
            awaitOpened(1);
            assertOpensOnce();
        });
        assertEquals(1, syns.size(), syns.toString());
        assertTrue(syns.getFirst().contains("Flags [S]"), syns.toString());
        assertEquals("", lab.mustOn("client", "ss", "-Htn", "dport = :666"), "no socket is left");
        assertEquals(0, lab.said("refused"), "the copy is passed over: " + lab.said());
    }

    @Test
    void rootAndWhoeverHasAnotherCapabilityKnocksWithoutThemToo() throws Exception {
        startServer();
        var command = script("knockknock", "-p", "22", HOST);
        // As systemd gives to all who log in; root of a container that drops CAP_NET_RAW; root.
        for (var setpriv : List.of(List.of("--reuid=alice", "--regid=alice", "--clear-groups", "--inh-caps=-all,+wake_alarm",
                "--ambient-caps=-all,+wake_alarm"), List.of("--bounding-set=-net_raw"), List.of("--bounding-set=+all"))) {
            lab.asAlice(command); // makes her, and the home hers
            if (!setpriv.getFirst().contains("alice")) {
                lab.must("chown", "-R", "root", lab.home.toString());
            }
            var all = new ArrayList<>(List.of("ip", "netns", "exec", "client", "setpriv"));
            all.addAll(setpriv);
            all.addAll(command);
            long before = lab.said(OPENED);
            assertEquals(new Lab.Result(0, "", ""), lab.run(all));
            awaitOpened((int) before + 1);
        }
        var installed = lab.install().resolve("knockknock").toString();
        lab.mustOn("client", "unshare", "--mount", "sh", "-c", "mount --bind \"$0\" /root && exec setpriv --bounding-set=-net_raw " + installed
                + " -p 22 " + HOST, lab.home.toString());
        awaitOpened(4);
    }

    @Test
    void itLoadsNothingThatMakesForeignCalls() throws Exception {
        startServer();
        var command = new ArrayList<>(script("knockknock", "-p", "22", HOST));
        command.add(1, "-Xlog:class+load");
        var loaded = lab.must(asAliceAlone(command));
        awaitOpened(1);
        assertTrue(loaded.contains(" KnockSender source:"), "looks for what is loaded");
        var foreign = Pattern.compile(" (RawSocket|Libc|java\\.lang\\.foreign\\.Linker"
                + "|jdk\\.internal\\.foreign\\.abi\\S*) source: (?!shared)");
        assertFalse(foreign.matcher(loaded).find(), loaded);
        assertFalse(loaded.contains(" Libc "));
    }

    @Test
    void theProxyTooNeedsNoPrivilegeWhereNoProfileDoes() throws Exception {
        startServer();
        var out = lab.work.resolve("proxy");
        lab.start(out, asAliceAlone(script("knockknock-proxy", "1080")));
        Lab.await(() -> Files.readString(out), () -> Files.exists(out) && Files.readString(out).contains("ready: "));
        for (int i = 1; i <= 3; i++) {
            assertEquals(0, lab.run(Lab.on("client", "nc", "-z", "-X", "5", "-x", "127.0.0.1:1080", HOST, "22")).exit(), lab.said());
        }
        assertEquals(3, lab.said(OPENED));
        lab.must("cp", "-a", lab.clientProfile(HOST).toString(), lab.clientProfile(Lab.SERVER).toString());
        lab.must("sed", "-i", "/carrier/d", lab.clientProfile(Lab.SERVER).resolve("config").toString());
        assertNotEquals(0, lab.run(Lab.on("client", "nc", "-z", "-X", "5", "-x", "127.0.0.1:1080", Lab.SERVER, "22")).exit());
        assertTrue(Files.readString(out).contains("no raw socket for 192.0.2.1, as no profile needed one at the start"), Files.readString(out));
    }

    @Test
    void sshKnocksByItselfWithoutAnyPrivilege() throws Exception {
        lab.startDaemon();
        var key = Sshd.start(lab, List.of("ip", "netns", "exec", "server"), HOST, 22);
        var knock = Files.writeString(lab.work.resolve("knock"), "#!/bin/sh\nexec " + String.join(" ", script("knockknock").stream()
                .map(word -> "'" + word + "'").toList()) + " \"$@\"\n");
        var config = Files.writeString(lab.work.resolve("config"), """
                Match host %s exec "%s -p 22 %%h"
                    User root
                    IdentityFile %s
                    UserKnownHostsFile /dev/null
                    StrictHostKeyChecking no
                """.formatted(HOST, knock, lab.work.resolve("key")));
        lab.must("chmod", "755", knock.toString());
        var ssh = asAliceAlone(List.of("ssh", "-F", config.toString(), HOST, "echo", "in"));
        lab.must("install", "-m", "600", "-o", "alice", key.toString(), lab.work.resolve("key").toString());
        assertEquals("in\n", lab.must(ssh));
        assertEquals(1, lab.said(OPENED), lab.said());
    }

    @Test
    void theInstalledCommandAndJbangAskNobodyEither() throws Exception {
        startServer();
        var installed = lab.install().resolve("knockknock").toString();
        lab.must(asAliceAlone(List.of(installed, "-p", "22", HOST)));
        awaitOpened(1);
        lab.must(asAliceAlone(List.of(installed, "-p", "22")));
        awaitOpened(2);
        // A second profile, with a carrier that needs something: only that one asks.
        lab.must("cp", "-a", lab.clientProfile(HOST).toString(), lab.clientProfile(Lab.SERVER).toString());
        lab.must("sed", "-i", "/carrier/d", lab.clientProfile(Lab.SERVER).resolve("config").toString());
        lab.must(asAliceAlone(List.of(installed, "-p", "22", HOST)));
        awaitOpened(3);
        assertNotEquals(0, lab.run(asAliceAlone(List.of(installed, "-p", "22", Lab.SERVER))).exit());
        assertEquals(3, lab.said("opened"));
        // From a checkout, which she builds where there is a network.
        var checkout = lab.home.resolve("checkout");
        lab.must("sh", "-euc", """
                mkdir -p "$1/.cache"
                git -c safe.directory='*' ls-files -z | xargs -0 cp --parents -t "$1"
                cp .cache/*.jar "$1/.cache" || true # if tests/jbang has fetched it
                chown -R alice "$1"
                """, "sh", checkout.toString());
        var alone = asAliceAlone(List.of("env", "-C", checkout.toString(), "HOME=" + lab.home, "JAVA_HOME=" + System.getProperty("java.home"),
                "PATH=" + checkout.resolve("tests") + ":" + System.getenv("PATH"), "jbang"));
        var build = new ArrayList<>(alone.subList(alone.indexOf("client") + 1, alone.size()));
        build.addAll(List.of("build", "knockknock.java"));
        lab.must(build);
        alone.addAll(List.of("--offline", "knockknock.java", "-p", "22", HOST));
        lab.must(alone);
        awaitOpened(4);
    }

    @Test
    void boundReplayedFromElsewhereAndAfterARestart() throws Exception {
        lab.addSetting(lab.clientProfile(HOST), "source = bound");
        lab.must("ip", "-n", "client", "address", "add", "2001:db8::3/64", "dev", "kk0", "nodad", "preferred_lft", "0");
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
        var next = KnockCodec.address(InetAddress.ofLiteral(HOST), codec.seal(22, 40, Carrier.ADDRESS, own)).getHostAddress();
        sendSyn("2001:db8::3", next);
        sendSyn(null, next);
        awaitOpened(1);
        assertOpensOnce();
    }

    /** An ordinary connection to a knock port, given up before its SYN is repeated. */
    private void sendSyn(String from, String to) throws Exception {
        lab.run(Lab.on("client", "sh", "-c", "exec timeout 0.5 nc -6 -z " + (from == null ? "" : "-s " + from) + " " + to + " 666"));
    }

    @Test
    void nobodyIsAnsweredAndOtherPortsAndAddressesAreLeftAlone() throws Exception {
        lab.must("ip", "-n", "server", "address", "add", "2001:db8:1:2::5/64", "dev", "kk0", "nodad");
        lab.must("ip", "-n", "server", "address", "add", "2001:db8:1:3::5/64", "dev", "kk0", "nodad");
        lab.must("ip", "-n", "client", "route", "add", "2001:db8:1:3::/64", "via", Lab.SERVER6);
        lab.mustOn("server", "ip6tables", "-I", "INPUT", "-p", "tcp", "--dport", "666", "-j", "ACCEPT");
        lab.mustOn("server", "sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1");
        lab.mustOn("server", "ip6tables", "-P", "FORWARD", "ACCEPT");
        lab.start(lab.work.resolve("service"), Lab.on("server", "nc", "-lk6", "2001:db8:1:2::5", "666"));
        Lab.await("the service", () -> lab.mustOn("server", "ss", "-Hltn", "sport = :666").lines().count() == 1);
        startServer();
        assertTrue(lab.connects("2001:db8:1:2::5", 666), "an address of this host");
        var unanswered = lab.run(Lab.on("client", "nc", "-zv", "-w", "5", "2001:db8:1:2::77", "666"));
        assertTrue(unanswered.err().contains("timed out"), unanswered.err());
        assertEquals(1, lab.said("from 2001:db8:0:0:0:0:0:2 refused"), lab.said());
        var forwarded = lab.run(Lab.on("client", "nc", "-zv", "-w", "5", "2001:db8:1:2::77", "667"));
        assertTrue(forwarded.err().contains("No route to host"), forwarded.err()); // as a router says, after three seconds

        // The knock's bytes in another network are none.
        var codec = Lab.credentials(lab.dir.resolve("profiles/laptop")).codec();
        var elsewhere = KnockCodec.address(InetAddress.ofLiteral("2001:db8:1:3::1"), codec.seal(22, 5, Carrier.ADDRESS, KnockCodec.UNBOUND));
        lab.must("ip", "-n", "server", "address", "add", elsewhere.getHostAddress() + "/64", "dev", "kk0", "nodad");
        sendSyn(null, elsewhere.getHostAddress()); // an address of this host, and so it is logged
        knockAsAlice();
        awaitOpened(1);
        assertEquals(1, lab.said("opened"), lab.said());
    }

    @Test
    void aCoverKnockToAnyAddressOfTheHostStillOpens() throws Exception {
        lab.must("ip", "-n", "server", "address", "add", "2001:db8:1:2::5/64", "dev", "kk0", "nodad");
        startServer();
        lab.must("sed", "-i", "/carrier/d", lab.clientProfile(HOST).resolve("config").toString());
        lab.must("ln", "-s", lab.clientProfile(HOST).toString(), lab.clientProfile("2001:db8:1:2::5").toString());
        lab.must(lab.knockCommand("-p", "22", HOST));
        awaitOpened(1);
        lab.must(lab.knockCommand("-p", "22", "2001:db8:1:2::5"));
        awaitOpened(2);
    }

    @Test
    void errorsSayWhatIsMissing() throws Exception {
        startServer();
        lab.must("cp", "-a", lab.clientProfile(HOST).toString(), lab.clientProfile(Lab.SERVER).toString());
        var four = lab.run(asAliceAlone(script("knockknock", "-p", "22", Lab.SERVER)));
        assertEquals(new Lab.Result(1, "", "knockknock: 192.0.2.1 has no IPv6 address\n"), four);
        var version4 = lab.run(asAliceAlone(script("knockknock", "-4", "-p", "22", Lab.SERVER)));
        assertEquals(new Lab.Result(1, "", "knockknock: 192.0.2.1 has no IPv6 address of its own, which the carrier address needs\n"), version4);
        assertEquals("0000000000\n", Files.readString(lab.clientProfile(Lab.SERVER).resolve("counter")));
        var closed = lab.run(asAliceAlone(script("knockknock", "-p", "23", HOST)));
        assertTrue(closed.err().contains("does not open port 23"), closed.err());
        lab.must("ip", "-n", "client", "route", "del", "2001:db8:1:2::/64");
        var noRoute = lab.run(asAliceAlone(script("knockknock", "-p", "22", HOST)));
        assertEquals(1, noRoute.exit());
        assertTrue(noRoute.err().startsWith("knockknock: no route to 2001:db8:1:2:0:0:0:1 ("), noRoute.err());
        assertEquals("0000000000\n", Files.readString(lab.clientProfile(HOST).resolve("counter")));

        lab.config("knock_address = 2001:db8:9::1");
        var check = lab.check();
        assertTrue(check.out().contains("problem  knock_address 2001:db8:9:0:0:0:0:1 is no address of this host"), check.out());
        for (var bad : List.of("192.0.2.1", "fe80::1", "::1", "ff02::1", "example.org", "::", "")) {
            lab.config("knock_address = " + bad);
            var refused = lab.run(Lab.on("server", lab.script("knockknock-daemon", "--dir", lab.dir.toString())));
            assertEquals(1, refused.exit());
            assertTrue(refused.err().contains("knock_address = " + bad + ": give this host's IPv6 address"), refused.err());
        }
    }

    /** A profile without open_ports opens nothing for 64 bits. */
    @Test
    void withoutOpenPortsTheServerSaysThatTheyAreMissing() throws Exception {
        lab.must("sed", "-i", "/open_ports/d", lab.dir.resolve("profiles/laptop/config").toString());
        startServer();
        knockAsAlice();
        Lab.await(lab::said, () -> lab.said("refused: ") == 1);
        assertTrue(lab.said().contains("knocks in an address open only if the profile has open_ports"), lab.said());
    }

    @Test
    void onTheWireItAndTheConnectionBehindItDifferInNothingButWhereTheyGo() throws Exception {
        lab.config("delay = 15\nknock_address = " + HOST);
        startServer();
        var files = List.of(lab.work.resolve("knock.pcap"), lab.work.resolve("connection.pcap"));
        for (var file : files) {
            var capture = lab.captureOne(file, "ip6 and tcp[13] == 2 or ip6 and ip6[6] == 6 and ip6[53] == 2");
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
            ByteBuffer.wrap(packet).putLong(32, 0).putShort(42, (short) 0); // the address's lower half, the port
            constant.add(WireTest.constantBytes(packet));
            described.add(WireTest.p0f(lab, file));
        }
        assertEquals(constant.get(1), constant.get(0));
        assertEquals(parities.get(1), parities.get(0), "of the source ports, which a kernel chooses otherwise for a socket that is bound");
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
        command.addAll(0, List.of("env", "HOME=" + lab.home, "http_proxy=http://127.0.0.1:9", "ALL_PROXY=socks5://127.0.0.1:9"));
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
            assertTrue(refused.err().startsWith("knock.sh: ") && refused.err().contains(bad), refused.err());
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
        assertTrue(lab.run(asAliceAlone(command)).err().contains("config: "), "a source that is none");
        lab.must("sed", "-i", "$d", lab.clientProfile(HOST).resolve("config").toString());
        Files.createDirectory(lab.clientProfile(HOST).resolve("lock"));
        assertTrue(lab.run(asAliceAlone(command)).err().contains("rmdir "));
        assertTrue(Files.exists(lab.clientProfile(HOST).resolve("lock")));
        Files.writeString(lab.clientProfile(HOST).resolve("mac.key"), "AAAA\n");
        assertTrue(lab.run(asAliceAlone(command)).err().contains("mac.key is damaged"));
    }
}
