import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.DataInputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;

import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.AutoClose;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** knockknock-firewall alone, as the daemon starts it, against a real kernel and all that it must refuse. */
class FirewallHalfTest {
    private static final int EACCES = 13, EEXIST = 17, ENOSPC = 28;
    @AutoClose
    private Lab lab;
    private Process half;

    @BeforeEach
    void startLab() throws Exception {
        lab = new Lab();
    }

    @AfterEach
    void endHalf() throws Exception {
        if (half != null) {
            half.destroyForcibly().waitFor();
        }
    }

    private List<String> command(String allowed, String... options) throws Exception {
        var script = lab.script("knockknock-daemon");
        var classes = Files.createDirectories(lab.work.resolve("half"));
        lab.must("unzip", "-qo", script.get(script.indexOf("-classpath") + 1).split(":")[0], "KnockknockFirewall.class",
                "-d", classes.toString());
        lab.must("chmod", "-R", "a+rX", classes.toString());
        var command = new ArrayList<>(List.of("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups",
                "--bounding-set=-all,+net_admin", "--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin",
                "--no-new-privs", System.getProperty("java.home") + "/bin/java", "--enable-native-access=ALL-UNNAMED",
                "-Xmx8m", "-XX:+UseSerialGC"));
        command.addAll(List.of(options));
        command.addAll(List.of("-cp", classes.toString(), "KnockknockFirewall", "3", allowed, "666,667"));
        return Lab.on("server", command);
    }

    private void start(String allowed, String... options) throws Exception {
        half = new ProcessBuilder(command(allowed, options)).redirectError(lab.work.resolve("err").toFile()).start();
        assertEquals(0, half.getInputStream().read());
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

    @Test
    void theLogRuleStandsInATableThatOnlyItsMakerMayChangeAndGoesWithIt() throws Exception {
        var before = rules();
        start("22");
        var table = lab.mustOn("server", "nft", "list", "table", "inet", "knockknock");
        for (var part : List.of("flags owner", "hook input priority filter - 10; policy accept;", "tcp dport { 666, 667 } tcp flags == syn",
                "ip saddr limit rate 50/second burst 100 packets", "ip6 saddr & ffff:ffff:ffff:ffff:: limit rate 50/second burst 100 packets",
                "log prefix \"knockknock: \" level debug flags tcp sequence,options flags ip options")) {
            assertTrue(table.contains(part), part + " in " + table);
        }
        assertFalse(lab.run(Lab.on("server", "nft", "delete", "table", "inet", "knockknock")).exit() == 0);
        half.destroyForcibly().waitFor();
        Lab.await("the table to go", () -> rules().equals(before));
    }

    @Test
    void itEndsInOrderWhenTheRequestsEnd() throws Exception {
        var before = rules();
        start("any");
        assertEquals(0, ask(Lab.CLIENT, 22));
        half.getOutputStream().close();
        assertTrue(half.waitFor(10, TimeUnit.SECONDS));
        assertEquals(0, half.exitValue());
        Lab.await("the table to go", () -> rules().equals(before));
    }

    @Test
    void anOpeningIsForOneConnectionAndOneCanWait() throws Exception {
        start("any");
        lab.serve(22);
        for (var server : List.of(Lab.SERVER, Lab.SERVER6)) {
            var client = server.equals(Lab.SERVER) ? Lab.CLIENT : Lab.CLIENT6;
            assertFalse(lab.connects(server, 22));
            assertEquals(0, ask(client, 22));
            assertEquals(EEXIST, ask(client, 22));
            assertEquals(0, ask(client, 23), "another port can wait beside it");
            assertTrue(lab.connects(server, 22));
            assertFalse(lab.connects(server, 22));
        }
    }

    @Test
    void aSecondRequestDoesNotLengthenAnOpening() throws Exception {
        start("any");
        assertEquals(0, ask(Lab.CLIENT, 22));
        long opened = System.nanoTime();
        while (System.nanoTime() - opened < 2_700_000_000L) { // of the three seconds; the time is what is tested
            assertEquals(EEXIST, ask(Lab.CLIENT, 22));
            Thread.sleep(20);
        }
        Lab.await("the opening to be over", () -> expectations() == 0);
        assertTrue(System.nanoTime() - opened < 4_200_000_000L);
    }

    @Test
    void itIsOverAfterTheDelayAlsoWhenItsMakerWasKilled() throws Exception {
        start("any");
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
        var resident = Pattern.compile("VmRSS:\\s+(\\d+)").matcher(Files.readString(Path.of("/proc/" + half.pid() + "/status")));
        assertTrue(resident.find() && Long.parseLong(resident.group(1)) < 120_000, resident.group());
        assertEquals(0, ask(Lab.CLIENT, 22));
    }

    @Test
    void aFloodOfSoundRequestsCostsNoMemoryAndEachIsAnswered() throws Exception {
        start("22,443");
        int open = 0, waiting = 0;
        for (int i = 0; i < 20_000; i++) {
            int answer = ask("192.0.2." + (2 + i % 100), i % 3 == 0 ? 443 : 22);
            open += answer == 0 ? 1 : 0;
            waiting += answer == EEXIST ? 1 : 0;
        }
        assertEquals(20_000, open + waiting);
        assertTrue(open >= 200, "" + open);
        var resident = Pattern.compile("VmRSS:\\s+(\\d+)").matcher(Files.readString(Path.of("/proc/" + half.pid() + "/status")));
        assertTrue(resident.find() && Long.parseLong(resident.group(1)) < 120_000, resident.group());
        var waitingSet = lab.mustOn("server", "nft", "list", "set", "inet", "knockknock", "waiting4");
        assertTrue(waitingSet.split("expires").length <= 201, waitingSet);
    }

    @Test
    void noMoreThanAThousandOpeningsAreMadeWithinTheDelay() throws Exception {
        start("any");
        int open = 0;
        int answer;
        while ((answer = ask(Lab.CLIENT, 1000 + open)) == 0 && open < 10_000) {
            open++;
        }
        assertEquals(ENOSPC, answer);
        assertTrue(open >= 1000 && expectations() <= 1000, open + " openings");
        Lab.await("room", () -> ask(Lab.CLIENT, 22) == 0);
    }

    @Test
    void aTruncatedRecordOpensNothing() throws Exception {
        start("any");
        half.getOutputStream().write(record(Lab.CLIENT, Lab.SERVER, 22), 0, 33);
        half.getOutputStream().close();
        assertTrue(half.waitFor(10, TimeUnit.SECONDS));
        assertEquals(-1, half.getInputStream().read());
        assertEquals(0, expectations());
    }

    @Test
    void withoutTheCapabilityItSaysSoAtOnce() throws Exception {
        var command = new ArrayList<>(command("any"));
        command.removeIf(argument -> argument.contains("-caps="));
        half = new ProcessBuilder(command).redirectError(lab.work.resolve("err").toFile()).start();
        assertTrue(half.getInputStream().read() > 0);
        assertTrue(half.waitFor(10, TimeUnit.SECONDS));
        assertTrue(Files.readString(lab.work.resolve("err")).startsWith("knockknock: cannot make the log rule: "));
    }

    @Test
    void runByHandItSaysWhatItIs() throws Exception {
        var command = command("any");
        var byHand = lab.run(command.subList(0, command.indexOf("KnockknockFirewall") + 1));
        assertEquals(new Lab.Result(2, "", "knockknock: this is the firewall half, which knockknock-daemon starts: run that\n"), byHand);
    }

    @Test
    void itLoadsNoClassButTheJdksAndItsOwn() throws Exception {
        var log = Files.createFile(lab.work.resolve("classes"));
        lab.must("chmod", "666", log.toString());
        start("any", "-Xlog:class+load:file=" + log);
        assertEquals(0, ask(Lab.CLIENT, 22));
        assertEquals(EEXIST, ask(Lab.CLIENT, 22));
        assertEquals(EACCES, ask("127.0.0.1", 22));
        half.getOutputStream().close();
        half.waitFor();
        var foreign = Files.readAllLines(log).stream().filter(line -> line.contains(" source: "))
                .filter(line -> !line.contains("source: jrt:/") && !line.contains("source: shared objects file")
                        && !line.contains("source: __") && !line.matches(".*source: (java|jdk|sun)\\..*"))
                .toList();
        assertTrue(foreign.stream().anyMatch(line -> line.contains(" KnockknockFirewall source: file:")), foreign.toString());
        assertTrue(foreign.stream().allMatch(line -> line.contains(" KnockknockFirewall")), foreign.toString());
    }
}
