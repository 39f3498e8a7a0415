import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.regex.Pattern;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvFileSource;

/**
 * The carrier "address": the knock is where an ordinary connection goes to, in a /64 that is routed
 * to the server.
 */
class AddressTest extends InRoutedNetwork {
    @ParameterizedTest
    @CsvFileSource(files = "tests/vectors-address.csv", numLinesToSkip = 1)
    void theVectorsHoldBothWays(String cipherKey, String macKey, long counter, int port,
            String source, String server, String sealed, String address) {
        var codec = new KnockCodec(HEX.parseHex(cipherKey), HEX.parseHex(macKey));
        var bound = source == null ? KnockCodec.UNBOUND
                : InetAddress.ofLiteral(source).getAddress();
        var fields = codec.seal(port, counter, Carrier.ADDRESS, bound);
        var knock = KnockCodec.address(InetAddress.ofLiteral(server), fields);
        assertEquals(InetAddress.ofLiteral(address), knock);
        assertEquals(sealed, HEX.formatHex(knock.getAddress(), 8, 16));

        var here = source == null ? InetAddress.ofLiteral("2001:db8::99").getAddress() : bound;
        var request = Optional.of(new KnockWindow.Request(port, counter));
        assertEquals(request, open(codec, knock, here, counter,
                CodecTest.terms(9, false, 1, port)));
        assertEquals(source == null ? Optional.empty() : request,
                open(codec, knock, here, counter, CodecTest.terms(9, true, port)));
        assertEquals(Optional.empty(), open(codec, knock, here, counter + 1,
                CodecTest.terms(9, false, port)), "a replay");
        assertEquals(Optional.empty(), open(codec, knock, here, counter, CodecTest.terms(9, false)),
                "any port");
        assertEquals(Optional.empty(), open(codec, knock, here, counter,
                CodecTest.terms(9, false, port == 1 ? 2 : 1)), "another port");
        if (source != null) {
            assertEquals(Optional.empty(),
                    open(codec, knock, InetAddress.ofLiteral("2001:db8::99").getAddress(), counter,
                    CodecTest.terms(9, false, port)));
        }
        for (int bit = 64; bit < 128; bit++) {
            var flipped = knock.getAddress();
            flipped[bit / 8] ^= (byte) (0x80 >> bit % 8);
            assertEquals(Optional.empty(),
                    new KnockWindow(codec, CodecTest.terms(9, false, port), counter)
                    .open(flipped, here), "bit " + bit);
        }
    }

    @Test
    void theVectorsInTheProtocolDocumentAreAmongThem() throws Exception {
        var known = Files.readString(Path.of("tests/vectors-address.csv"));
        var rows = Pattern.compile("\\| ([0-9a-f]{32}) \\| ([0-9a-f]{32}) \\| (\\d+) \\| (\\d+) "
                + "\\| (\\S+) \\| (\\S+) \\| ([0-9a-f]{4}(?::[0-9a-f]{4}){7}) \\|")
                .matcher(Files.readString(Path.of("PROTOCOL.md"))).results().toList();
        assertEquals(4, rows.size());
        for (var row : rows) {
            var start = String.join(",", row.group(1), row.group(2), row.group(3), row.group(4),
                    row.group(5).replace("none", ""), row.group(6));
            assertTrue(Pattern.compile("(?m)^" + start + ",[0-9a-f]{16}," + row.group(7) + "$")
                    .matcher(known).find(), row.group());
        }
    }

    private static Optional<KnockWindow.Request> open(KnockCodec codec, InetAddress knock,
            byte[] source, long next, KnockWindow.Terms terms) {
        return new KnockWindow(codec, terms, Math.min(next, Counter.LAST + 1))
                .open(knock.getAddress(), source);
    }

    @Test
    void amongAMillionForgeriesNoneOpens() {
        var codec = new KnockCodec(new byte[16], new byte[16]);
        var window = new KnockWindow(codec, CodecTest.terms(10_000, false, 22), 0);
        var right = KnockCodec.address(InetAddress.ofLiteral(HOST),
                codec.seal(22, 77, Carrier.ADDRESS, KnockCodec.UNBOUND)).getAddress();
        var random = new java.util.Random(19);
        for (int i = 0; i < 1_000_000; i++) { // with the right port, and so 48 bits to guess
            var forged = right.clone();
            ByteBuffer.wrap(forged).putInt(10, random.nextInt())
                    .putShort(14, (short) random.nextInt());
            assertTrue(window.open(forged, new byte[16]).isEmpty()
                    || java.util.Arrays.equals(forged, right));
        }
        assertEquals(Optional.of(new KnockWindow.Request(22, 77)),
                window.open(right, new byte[16]));
    }

    @Test
    void anOrdinaryUserWithoutSudoAndCapabilityKnocksWithOneSynThatIsNotRepeated(
            ) throws Exception {
        startServer();
        assertTrue(lab.said().contains("ready: knock ports 666 and addresses "
                + "2001:db8:1:2:0:0:0:0/64, log"), lab.said());
        assertFalse(lab.connects(HOST, 22));
        lab.mustOn("server", "ip6tables", "-t", "raw", "-A", "PREROUTING", "-p", "tcp", "--dport",
                "666", "-j", "LOG", "--log-tcp-sequence",
                // a copy of each line, as a host's own rule makes it
                "--log-tcp-options", "--log-ip-options");
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
        for (var setpriv : List.of(List.of("--reuid=alice", "--regid=alice", "--clear-groups",
                "--inh-caps=-all,+wake_alarm",
                "--ambient-caps=-all,+wake_alarm"), List.of("--bounding-set=-net_raw"),
                        List.of("--bounding-set=+all"))) {
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
        var installed = Install.shared(lab).resolve("knockknock").toString();
        lab.mustOn("client", "unshare", "--mount", "sh", "-c",
                "mount --bind \"$0\" /root && exec setpriv --bounding-set=-net_raw " + installed
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
        Lab.await(() -> Files.readString(out), () -> Files.exists(out)
                && Files.readString(out).contains("ready: "));
        for (int i = 1; i <= 3; i++) {
            assertEquals(0, lab.run(Lab.on("client", "nc", "-z", "-X", "5", "-x", "127.0.0.1:1080",
                    HOST, "22")).exit(), lab.said());
        }
        assertEquals(3, lab.said(OPENED));
        lab.must("cp", "-a", lab.clientProfile(HOST).toString(),
                lab.clientProfile(Lab.SERVER).toString());
        lab.must("sed", "-i", "/carrier/d",
                lab.clientProfile(Lab.SERVER).resolve("config").toString());
        assertNotEquals(0, lab.run(Lab.on("client", "nc", "-z", "-X", "5", "-x", "127.0.0.1:1080",
                Lab.SERVER, "22")).exit());
        assertTrue(Files.readString(out).contains("no raw socket for 192.0.2.1, as no profile "
                + "needed one at the start"), Files.readString(out));
    }

    @Test
    void sshKnocksByItselfWithoutAnyPrivilege() throws Exception {
        lab.startDaemon();
        var key = Sshd.start(lab, List.of("ip", "netns", "exec", "server"), HOST, 22);
        var knock = Files.writeString(lab.work.resolve("knock"), "#!/bin/sh\nexec "
                + String.join(" ", script("knockknock").stream()
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
        lab.must("install", "-m", "600", "-o", "alice", key.toString(),
                lab.work.resolve("key").toString());
        assertEquals("in\n", lab.must(ssh));
        assertEquals(1, lab.said(OPENED), lab.said());
    }

    @Test
    void theInstalledCommandAndJbangAskNobodyEither() throws Exception {
        startServer();
        var installed = Install.shared(lab).resolve("knockknock").toString();
        lab.must(asAliceAlone(List.of(installed, "-p", "22", HOST)));
        awaitOpened(1);
        lab.must(asAliceAlone(List.of(installed, "-p", "22")));
        awaitOpened(2);
        // A second profile, with a carrier that needs something: only that one asks.
        lab.must("cp", "-a", lab.clientProfile(HOST).toString(),
                lab.clientProfile(Lab.SERVER).toString());
        lab.must("sed", "-i", "/carrier/d",
                lab.clientProfile(Lab.SERVER).resolve("config").toString());
        lab.must(asAliceAlone(List.of(installed, "-p", "22", HOST)));
        awaitOpened(3);
        assertNotEquals(0, lab.run(asAliceAlone(List.of(installed, "-p", "22", Lab.SERVER)))
                .exit());
        assertEquals(3, lab.said("opened"));
        // From a checkout, which she builds where there is a network.
        var checkout = lab.home.resolve("checkout");
        lab.must("sh", "-euc", """
                mkdir -p "$1/.cache"
                git -c safe.directory='*' ls-files -z | xargs -0 cp --parents -t "$1"
                cp .cache/*.jar "$1/.cache" || true # if tests/jbang has fetched it
                chown -R alice "$1"
                """, "sh", checkout.toString());
        var alone = asAliceAlone(List.of("env", "-C", checkout.toString(), "HOME=" + lab.home,
                "JAVA_HOME=" + System.getProperty("java.home"),
                "PATH=" + checkout.resolve("tests") + ":" + System.getenv("PATH"), "jbang"));
        var build = new ArrayList<>(alone.subList(alone.indexOf("client") + 1, alone.size()));
        build.addAll(List.of("build", "knockknock.java"));
        lab.must(build);
        alone.addAll(List.of("--offline", "knockknock.java", "-p", "22", HOST));
        lab.must(alone);
        awaitOpened(4);
    }
}
