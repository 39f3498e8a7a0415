import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.DataInputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;

import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** knockknock-firewall alone, as the daemon starts it, against a real kernel and all that it must refuse. */
class FirewallHalfTest extends InLab {
    private static final int EIO = 5, EACCES = 13, EBUSY = 16, ENOSPC = 28;
    private static final String ALONE = "-all,+net_admin";
    private static final List<String> SETPRIV = List.of("--reuid=nobody", "--regid=nogroup", "--clear-groups",
            "--bounding-set=" + ALONE, "--inh-caps=" + ALONE, "--ambient-caps=" + ALONE, "--no-new-privs");
    private Process half;

    @AfterEach
    void endHalf() throws Exception {
        if (half != null) {
            half.destroyForcibly().waitFor();
        }
    }

    /** The half as the daemon starts it, but for what {@code prefix} has in the place of setpriv's own words. */
    private List<String> command(List<String> setpriv, String allowed, String... options) throws Exception {
        var script = lab.script("knockknock-daemon");
        var jar = lab.work.resolve("half.jar");
        Files.copy(Path.of(script.get(script.indexOf("-classpath") + 1).split(":")[0]), jar, StandardCopyOption.REPLACE_EXISTING);
        lab.must("chmod", "644", jar.toString());
        var command = new ArrayList<>(List.of("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "setpriv"));
        command.addAll(setpriv);
        command.addAll(List.of(System.getProperty("java.home") + "/bin/java", "--enable-native-access=ALL-UNNAMED", "-Xmx8m",
                "-XX:+UseSerialGC"));
        command.addAll(List.of(options));
        command.addAll(List.of("-cp", jar.toString(), "KnockknockFirewall", "3", allowed, "666,667", "::"));
        return Lab.on("server", command);
    }

    private void start(String allowed, String... options) throws Exception {
        half = new ProcessBuilder(command(SETPRIV, allowed, options)).redirectError(lab.work.resolve("err").toFile()).start();
        assertEquals(0, half.getInputStream().read(), said());
    }

    /** What it has printed. */
    private String said() throws IOException {
        return Files.readString(lab.work.resolve("err"));
    }

    private static byte[] record(String source, String destination, int port) {
        return ByteBuffer.allocate(34).put(mapped(source)).put(mapped(destination)).putShort((short) port).array();
    }

    private static byte[] mapped(String address) {
        var bytes = InetAddress.ofLiteral(address).getAddress();
        return bytes.length == 16 ? bytes : ByteBuffer.allocate(16).putShort(10, (short) -1).put(12, bytes).array();
    }

    private int ask(byte[] record) throws IOException {
        half.getOutputStream().write(record);
        half.getOutputStream().flush();
        return half.getInputStream().read();
    }

    private int ask(String source, int port) throws IOException {
        return ask(record(source, source.contains(":") ? Lab.SERVER6 : Lab.SERVER, port));
    }

    private String rules() throws Exception {
        return lab.mustOn("server", "nft", "-s", "list", "ruleset");
    }

    private long expectations() throws Exception {
        return lab.mustOn("server", "cat", "/proc/net/nf_conntrack_expect").lines().filter(line -> line.contains("proto=6") && !line.contains("src=127.0.0.1"))
                .count(); // but for the one that it tries itself with
    }

    private String table() throws Exception {
        return lab.mustOn("server", "nft", "-s", "list", "table", "inet", "knockknock");
    }

    /** The log rule, but for the name of its chain. */
    private String nameless(String table) {
        return table.replaceAll("chain k[0-9a-f]{16} ", "chain CHAIN ");
    }

    @Test
    void theLogRuleOnlyLogsAndComesBeforeAllThatCouldHideAKnock() throws Exception {
        lab.must("nft", "-c", "-f", "knockknock.nft");
        start("22");
        var table = table();
        for (var part : List.of("type filter hook prerouting priority -350; policy accept;",
                "tcp dport { 666, 667 } tcp flags == syn fib daddr type local update @seen4 { ip saddr limit rate 50/second burst 100 packets }",
                "update @seen6 { ip6 saddr & ffff:ffff:ffff:ffff:: limit rate 50/second burst 100 packets }",
                "log prefix \"knockknock: \" level debug flags tcp sequence,options flags ip options\n")) {
            assertTrue(table.contains(part), part + " in " + table);
        }
        var carrier = "ip6 daddr ::/64 fib daddr type != local drop\n"; // without knock_address nobody's
        assertTrue(table.contains(carrier), table);
        assertFalse(Pattern.compile("\\b(drop|reject|queue|return|jump|flags owner)\\b").matcher(table.replace(carrier, "")).find(), table);
    }

    @Test
    void whatAKillLeavesOnlyLogsAndIsReplacedAtTheNextStart() throws Exception {
        var before = rules();
        start("22");
        var table = table();
        half.destroyForcibly().waitFor();
        assertEquals(table, table());
        start("22");
        assertNotEquals(table, table());
        assertEquals(nameless(table), nameless(table()));
        half.getOutputStream().close();
        half.waitFor();
        assertEquals(before, rules());
    }

    @ParameterizedTest
    @ValueSource(strings = {"TERM", "INT", "HUP", ""})
    void itTakesTheLogRuleAwayWhenTheRequestsEndAndAtASignal(String signal) throws Exception {
        var before = rules();
        start("22");
        assertEquals(0, ask(Lab.CLIENT, 22));
        if (signal.isEmpty()) {
            half.getOutputStream().close();
        } else {
            lab.must("kill", "-" + signal, "" + half.pid());
        }
        assertTrue(half.waitFor(10, TimeUnit.SECONDS));
        assertEquals(before, rules());
        assertEquals("", said());
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', value = {
        "3 | nft flush ruleset",
        "3 | nft list ruleset > dump; nft flush ruleset; nft -f dump", // as VPN programs and admins do
        "3 | nft list table inet knockknock > dump; nft -f dump",
        "3 | nft flush table inet knockknock",
        "3 | nft -a list table inet knockknock > list; nft delete rule inet knockknock $chain handle $(sed -n '0,/.* ip options # handle /s///p' list)",
        "6 | nft delete table inet knockknock; nft -f old"}) // a dump of another start's
    void aLogRuleThatWasChangedIsMadeAnewAndTheHostsRulesStay(int rules, String change) throws Exception {
        loadHostsTable();
        start("22");
        Files.writeString(lab.work.resolve("old"), table());
        half.getOutputStream().close();
        half.waitFor();
        start("22");
        var hosts = rules().replaceAll("(?ms)^table inet knockknock \\{.*?^\\}\n", "");
        var chain = Pattern.compile("(?ms)^\tchain (k[0-9a-f]{16}) \\{.*?^\t\\}\n").matcher(table());
        assertTrue(chain.find());
        lab.mustOn("server", "sh", "-euc", "cd " + lab.work + "; chain=" + chain.group(1) + "; " + change);
        Lab.await(() -> "the log rule in " + rules(), () -> rules().contains(chain.group())
                && rules().split("log prefix \"knockknock: \"", -1).length == 1 + rules);
        assertTrue(said().contains("knockknock: the log rule was changed: it is made anew\n"), said());
        if (!change.endsWith("flush ruleset")) {
            assertEquals(hosts, rules().replaceAll("(?ms)^table inet knockknock \\{.*?^\\}\n", ""));
        }
        assertEquals(0, ask(Lab.CLIENT, 22));
    }

    @Test
    void aConnectionThatWasLetInHasNoHelperThatCouldReadIt() throws Exception {
        start("22");
        lab.serve(22);
        assertEquals(0, ask(Lab.CLIENT, 22));
        lab.start(lab.work.resolve("connection"), Lab.on("client", "nc", Lab.SERVER, "22"));
        Lab.await("the connection", () -> lab.mustOn("server", "conntrack", "-L", "-p", "tcp", "--dport", "22").contains("ESTABLISHED"));
        var connections = lab.mustOn("server", "conntrack", "-L", "-p", "tcp", "--dport", "22");
        assertFalse(connections.contains("helper="), connections);
        assertTrue(lab.mustOn("server", "conntrack", "-L").contains("helper=ftp"), "the master's is shown");
    }

    @Test
    void asManyConnectionsGetInAsWereAskedForAndNoMore() throws Exception {
        start("1-65535");
        lab.serve(22);
        for (var server : List.of(Lab.SERVER, Lab.SERVER6)) {
            var client = server.equals(Lab.SERVER) ? Lab.CLIENT : Lab.CLIENT6;
            assertFalse(lab.connects(server, 22));
            for (int i = 0; i < 3; i++) {
                assertEquals(0, ask(client, 22));
            }
            assertEquals(0, ask(client, 23), "another port has openings of its own");
            for (int i = 0; i < 3; i++) {
                assertTrue(lab.getsIn(server, 22), "connection " + i);
            }
            assertFalse(lab.connects(server, 22));
        }
    }

    @Test
    void aPortOfUdpLetsOneFlowIn() throws Exception {
        start("22,53/udp");
        lab.start(lab.work.resolve("udp"), Lab.on("server", "nc", "-luk", "-p", "53"));
        Lab.await("the service", () -> lab.mustOn("server", "ss", "-Hlun", "sport = :53").lines().count() == 1);
        for (int knocks = 0; knocks < 3; knocks++) {
            if (knocks > 0) {
                assertEquals(0, ask(Lab.CLIENT, 53));
            }
            for (var text : List.of("first of ", "second of ")) { // from another port, and so another flow
                lab.mustOn("client", "sh", "-c", "echo " + text + knocks + " | nc -u -w 1 " + Lab.SERVER + " 53");
            }
        }
        assertEquals("first of 1\nfirst of 2\n", Files.readString(lab.work.resolve("udp")));
        lab.serve(53);
        assertEquals(0, ask(Lab.CLIENT, 53));
        assertFalse(lab.connects(Lab.SERVER, 53), "TCP");
    }

    /** Expects a connection from one source port alone; the master is one that has a helper. */
    private static final String NARROWER = """
            import socket, struct, sys
            def attribute(kind, body): return struct.pack('HH', 4 + len(body), kind) + body + bytes(-len(body) % 4)
            def tuple(kind, source, destination, from_port, to_port):
                return attribute(kind | 0x8000, attribute(0x8001, attribute(1, source) + attribute(2, destination))
                    + attribute(0x8002, attribute(1, b'\\6') + attribute(2, struct.pack('>H', from_port)) + attribute(3, struct.pack('>H', to_port))))
            source, destination, own = (socket.inet_aton(address) for address in (sys.argv[1], sys.argv[2], '127.0.0.1'))
            body = (tuple(2, source, destination, 5555, int(sys.argv[3])) + tuple(3, b'\\xff' * 4, b'\\xff' * 4, 65535, 65535)
                + tuple(1, own, own, int(sys.argv[4]), int(sys.argv[5])) + attribute(4, struct.pack('>I', 60)))
            netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
            netlink.send(struct.pack('IHHIIBBH', 20 + len(body), 0x200, 0x605, 0, 0, 2, 0, 0) + body)
            sys.exit(-struct.unpack_from('i', netlink.recv(8192), 16)[0])
            """;

    @Test
    void whatTheKernelRefusesInTheMiddleIsSaidAndLeavesNothingOpen() throws Exception {
        start("22,23,99");
        lab.serve(23);
        assertEquals(0, ask(Lab.CLIENT, 99));
        var master = Pattern.compile("master-src=127.0.0.1 master-dst=127.0.0.1 sport=(\\d+) dport=(\\d+)")
                .matcher(lab.mustOn("server", "conntrack", "-L", "expect"));
        assertTrue(master.find());
        lab.mustOn("server", "python3", "-c", NARROWER, Lab.CLIENT, Lab.SERVER, "23", master.group(1), master.group(2));
        assertEquals(EBUSY, ask(Lab.CLIENT, 23), "the kernel expects no wider one beside it");
        assertFalse(lab.connects(Lab.SERVER, 23));
        lab.mustOn("server", "conntrack", "-F", "expect");
        assertEquals(0, ask(Lab.CLIENT, 23));
        assertTrue(lab.getsIn(Lab.SERVER, 23));
        assertFalse(lab.connects(Lab.SERVER, 23));
    }

    @Test
    void eachOpeningHasItsOwnEnd() throws Exception {
        start("22");
        long first = System.nanoTime();
        assertEquals(0, ask(Lab.CLIENT, 22));
        TimeUnit.MILLISECONDS.sleep(2000); // of three seconds: what is tested is the time itself
        assertEquals(0, ask(Lab.CLIENT, 22));
        TimeUnit.NANOSECONDS.sleep(first + Lab.DELAY_MILLIS * 1_000_000 - System.nanoTime());
        assertEquals(1, expectations(), "the first is over, and the second has its turn");
        Lab.await("the second to be over", () -> expectations() == 0);
        assertTrue(System.nanoTime() - first < 7_000_000_000L, "2 + 3 seconds, rounded up, and an eighth");
    }

    @Test
    void itIsOverAfterTheDelayAlsoWhenItsMakerWasKilled() throws Exception {
        start("1-65535");
        assertEquals(0, ask(Lab.CLIENT, 22));
        long opened = System.nanoTime();
        half.destroyForcibly().waitFor();
        assertEquals(1, expectations());
        Lab.await("the opening to be over", () -> expectations() == 0);
        assertTrue(System.nanoTime() - opened < 4_200_000_000L);
    }

    @Test
    void allButOneHostAnAddressOfThisHostAndAnAllowedPortIsRefused() throws Exception {
        start("22,443");
        for (var source : List.of("0.0.0.0", "127.0.0.1", "127.8.8.8", "224.0.0.1", "239.255.255.255", "255.255.255.255", "::", "::1",
                "ff02::1", "ff0e::1")) {
            assertEquals(EACCES, ask(source, 22), source);
        }
        for (var destination : List.of("127.0.0.1", "192.0.2.3", "192.0.2.255", "0.0.0.0", "255.255.255.255", "224.0.0.1", Lab.SERVER6, Lab.CLIENT)) {
            assertEquals(EACCES, ask(record(Lab.CLIENT, destination, 22)), destination);
        }
        for (var destination : List.of("::1", "2001:db8::3", "::", "ff02::1", Lab.SERVER)) {
            assertEquals(EACCES, ask(record(Lab.CLIENT6, destination, 22)), destination);
        }
        for (int port : new int[] {0, 1, 21, 23, 442, 65535}) {
            assertEquals(EACCES, ask(Lab.CLIENT, port), "port " + port);
        }
        assertEquals(0, expectations());
        assertEquals(0, ask(Lab.CLIENT, 22));
        assertEquals(0, ask(Lab.CLIENT6, 443));
        assertEquals(2, expectations());
    }

    @Test
    void aMillionRandomRecordsOpenNothingAndCostNoMemory() throws Exception {
        start("22,443");
        assertEquals(EACCES, ask("127.0.0.1", 22));
        long before = residentKilobytes();
        var random = new Random(3);
        var sources = List.of(mapped(Lab.CLIENT), mapped("127.0.0.1"), mapped("224.0.0.1"), mapped(Lab.CLIENT6), new byte[16]);
        var writer = Thread.startVirtualThread(() -> {
            try {
                var record = new byte[34];
                for (int i = 0; i < 1_000_000; i++) {
                    random.nextBytes(record);
                    if (i % 4 == 0) { // a source that is one, but never this host's address with an allowed port
                        System.arraycopy(sources.get(random.nextInt(sources.size())), 0, record, 0, 16);
                    }
                    half.getOutputStream().write(record);
                }
                half.getOutputStream().flush();
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        });
        var answers = new byte[1_000_000];
        new DataInputStream(half.getInputStream()).readFully(answers);
        writer.join();
        for (byte answer : answers) {
            assertEquals(EACCES, answer);
        }
        assertEquals(0, expectations());
        assertTrue(residentKilobytes() < before + 30_000, before + " KB -> " + residentKilobytes() + " KB");
        assertEquals(0, ask(Lab.CLIENT, 22));
    }

    @Test
    void noMoreThanFiftyWaitForOnePortAndAThousandInAllAndEachRequestIsAnswered() throws Exception {
        start("1-65535");
        for (int i = 0; i < 51; i++) {
            assertEquals(i < 50 ? 0 : ENOSPC, ask(Lab.CLIENT, 22), "" + i);
        }
        int open = 50, answer;
        while ((answer = ask(Lab.CLIENT, 1000 + open)) == 0 && open < 10_000) {
            open++;
        }
        assertEquals(ENOSPC, answer);
        assertTrue(open >= 990 && expectations() <= 1000, open + " openings"); // it tries itself with two
        for (int i = 0; i < 20_000; i++) {
            answer = ask("192.0.2." + (2 + i % 100), i % 3 == 0 ? 443 : 22);
            assertTrue(answer == 0 || answer == ENOSPC, "" + answer);
        }
        assertTrue(residentKilobytes() < 120_000, residentKilobytes() + " KB");
        Lab.await("room", () -> ask(Lab.CLIENT, 22) == 0);
    }

    private long residentKilobytes() throws IOException {
        return Traces.kilobytes(half.pid(), "status", "VmRSS");
    }

    @Test
    void eventsThatGotLostAreMadeUpFor() throws Exception {
        loadHostsTable();
        start("22");
        lab.serve(22);
        assertEquals(0, ask(Lab.CLIENT, 22));
        assertEquals(0, ask(Lab.CLIENT, 22));
        lab.must("kill", "-STOP", "" + half.pid());
        lab.mustOn("server", "sh", "-c", """
                for i in $(seq 100); do
                    echo "add table inet noise; add set inet noise s { type ipv4_addr; }"
                    echo "add element inet noise s { $(seq -f 10.0.$i.%g -s , 250) }"
                done | nft -f -
                nft delete table inet noise
                """); // more than the half's socket holds
        assertTrue(lab.getsIn(Lab.SERVER, 22));
        loadHostsTable();
        lab.must("kill", "-CONT", "" + half.pid());
        Lab.await("the second opening", () -> expectations() == 1);
        Lab.await("the log rule", () -> rules().contains("inet knockknock"));
        assertTrue(lab.getsIn(Lab.SERVER, 22));
        assertFalse(lab.connects(Lab.SERVER, 22));
    }

    /** Rules that nft alone has made, in the place of all there are. */
    private void loadHostsTable() throws Exception {
        lab.mustOn("server", "nft", """
                flush ruleset
                table inet host {
                    chain input {
                        type filter hook input priority filter; policy drop
                        ct state established,related accept
                        iif lo accept
                        meta l4proto ipv6-icmp accept
                    }
                }
                """);
    }

    @Test
    void whereTheKernelTellsNoEventsItSaysSoAndOpensOneAfterTheOther() throws Exception {
        lab.mustOn("server", "sysctl", "-q", "-w", "net.netfilter.nf_conntrack_events=0");
        start("22");
        assertTrue(said().startsWith("knockknock: warning: with net.netfilter.nf_conntrack_events = 0, "), said());
        lab.serve(22);
        for (int i = 0; i < 3; i++) {
            assertEquals(0, ask(Lab.CLIENT, 22));
            assertTrue(lab.getsIn(Lab.SERVER, 22), "connection " + i);
            assertFalse(lab.connects(Lab.SERVER, 22));
        }
        assertEquals(0, ask(Lab.CLIENT, 22));
        TimeUnit.MILLISECONDS.sleep(2500); // so that the second one still has time when the first one's, 3 s and 1 more, is over
        assertEquals(0, ask(Lab.CLIENT, 22));
        assertTrue(lab.getsIn(Lab.SERVER, 22));
        assertFalse(lab.connects(Lab.SERVER, 22), "the second one waits");
        assertTrue(lab.getsIn(Lab.SERVER, 22), "until the time of the first is over");
    }

    @Test
    void aTruncatedRecordOpensNothing() throws Exception {
        start("1-65535");
        half.getOutputStream().write(record(Lab.CLIENT, Lab.SERVER, 22), 0, 33);
        half.getOutputStream().close();
        assertTrue(half.waitFor(10, TimeUnit.SECONDS));
        assertEquals(-1, half.getInputStream().read());
        assertEquals(0, expectations());
    }

    @ParameterizedTest
    @CsvSource({
        "--reuid=nobody, --reuid=root", "--regid=nogroup, --regid=root", "--clear-groups, --groups=0", "--no-new-privs, --",
        "--bounding-set=-all, --bounding-set=-all,+net_raw", "--inh-caps=-all, --inh-caps=-all,+net_raw"})
    void withAPrivilegeTooManyItEndsBeforeAnythingElse(String word, String instead) throws Exception {
        var setpriv = SETPRIV.stream().map(option -> option.equals(word) ? instead
                : word.contains("=-all") && option.startsWith(word) ? option + ",+net_raw"
                : word.startsWith("--inh") && option.startsWith("--bounding-set=") ? option + ",+net_raw" : option).toList();
        var before = rules();
        half = new ProcessBuilder(command(setpriv, "22")).redirectError(lab.work.resolve("err").toFile()).start();
        assertEquals(EIO, half.getInputStream().read());
        assertTrue(half.waitFor(10, TimeUnit.SECONDS));
        assertEquals(1, half.exitValue());
        assertEquals("knockknock: the firewall half: takes CAP_NET_ADMIN alone: have knockknock-daemon start it\n", said());
        assertEquals(before, rules());
    }

    @Test
    void withoutTheCapabilityItSaysSoAtOnce() throws Exception {
        var setpriv = SETPRIV.stream().filter(word -> !word.contains("-caps=")).toList();
        half = new ProcessBuilder(command(setpriv, "22")).redirectError(lab.work.resolve("err").toFile()).start();
        assertEquals(EIO, half.getInputStream().read());
        assertTrue(half.waitFor(10, TimeUnit.SECONDS));
        assertTrue(said().startsWith("knockknock: the firewall half: netfilter does not answer: errno 1\n"), said());
    }

    @Test
    void runByHandItSaysWhoStartsIt() throws Exception {
        var command = command(List.of("--"), "22");
        var byHand = lab.run(command.subList(0, command.indexOf("KnockknockFirewall") + 1));
        assertEquals(1, byHand.exit());
        assertEquals("knockknock: the firewall half: takes CAP_NET_ADMIN alone: have knockknock-daemon start it\n", byHand.err());
    }

    @Test
    void itLoadsNoClassButTheJdksAndItsOwn() throws Exception {
        var log = Files.createFile(lab.work.resolve("classes"));
        lab.must("chmod", "666", log.toString());
        start("1-65535", "-Xlog:class+load:file=" + log);
        assertEquals(0, ask(Lab.CLIENT, 22));
        assertEquals(0, ask(Lab.CLIENT, 22));
        assertEquals(EACCES, ask("127.0.0.1", 22));
        lab.mustOn("server", "nft", "flush", "ruleset");
        Lab.await("the log rule to be made anew", () -> said().contains("it is made anew"));
        half.getOutputStream().close();
        half.waitFor();
        var foreign = Files.readAllLines(log).stream().filter(line -> line.contains(" source: "))
                .filter(line -> !line.contains("source: jrt:/") && !line.contains("source: shared objects file")
                        && !line.contains("source: __") && !line.matches(".*source: (java|jdk|sun)\\..*"))
                .toList();
        assertTrue(foreign.stream().anyMatch(line -> line.contains(" KnockknockFirewall source: file:")), foreign.toString());
        assertTrue(foreign.stream().allMatch(line -> line.matches(".* (KnockknockFirewall|Netfilter|Openings|Libc)\\b.*")), foreign.toString());
    }
}
