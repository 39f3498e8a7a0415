import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;
import java.util.OptionalLong;
import java.util.Random;
import java.util.concurrent.Callable;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.locks.LockSupport;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;

/**
 * Measures with real processes and prints a Markdown table, also to bench.md; sudo tests/bench runs
 * it.
 */
final class Bench {
    /** A copy of the JDK, so that what is measured shares no memory with this program. */
    static String ownJdk(Lab lab) throws Exception {
        var jdk = lab.work.resolve("jdk").toString();
        lab.must("cp", "-r", System.getProperty("java.home"), jdk);
        return jdk;
    }

    private void server(int profiles) throws Exception {
        try (var lab = new Lab()) {
            lab.profile("laptop", 666, Lab.SERVER);
            lab.config("delay = 3");
            var laptop = lab.dir.resolve("profiles/laptop");
            lab.addSetting(laptop, "open_ports = " + ports());
            for (int i = 1; i < profiles; i++) {
                var another = laptop.resolveSibling("p" + i);
                lab.must("cp", "-a", laptop.toString(), another.toString());
                Files.writeString(another.resolve("config"), "[main]\nknock_port = " + (10_000 + i)
                        + "\nopen_ports = 22\n");
            }
            Files.writeString(lab.kernLog, "");
            lab.must("chmod", "644", lab.kernLog.toString());
            var jdk = ownJdk(lab);
            var installed = Install.fresh(lab, jdk).resolve("knockknock-daemon").toString();
            var codec = Lab.credentials(laptop).codec();
            var counter = new AtomicInteger();
            // another port each time: no opening waits for one before it
            Callable<String> knock = () -> {
                int n = counter.getAndIncrement();
                return Traces.line(codec.seal(1000 + n % 200, n, Carrier.COVER, new byte[0]), 666);
            };
            Callable<Double> latency = () -> latency(lab, lab.daemonOut, knock.call());
            if (profiles == 1) {
                Measures.row("log line appended -> port open, the first after \"ready\"", "ms",
                        Measures.repeat(7, () -> {
                    lab.startDaemon(List.of(installed), "--log", lab.kernLog.toString());
                    double first = latency.call();
                    lab.stopDaemon();
                    return first;
                }));
            }
            lab.startDaemon(List.of(installed), "--log", lab.kernLog.toString());
            if (profiles == 1) {
                Measures.repeat(50, latency);
                var latencies = Measures.repeat(500, () -> {
                    Thread.sleep(20);
                    return latency.call();
                });
                Measures.row("log line appended -> port open", "ms", latencies);
                Measures.row("the same, 99th percentile", "ms",
                        List.of(latencies.stream().sorted().toList().get(494)));
                lab.stopDaemon();
                var out = lab.work.resolve("plainest.out");
                var plainest = lab.start(out, Lab.on("server", jdk + "/bin/java",
                        "--enable-native-access=ALL-UNNAMED", "-XX:+UseSerialGC", "-cp",
                        System.getProperty("java.class.path"), "Plainest", lab.kernLog.toString(),
                        lab.work.resolve("plainest").toString()));
                Lab.await("the plainest way", () -> Files.readString(out).contains("ready:"));
                Measures.repeat(50, () -> latency(lab, out, knock.call()));
                Measures.row("the same by tail, fdatasync and three netlink messages alone", "ms",
                        Measures.repeat(500, () -> {
                    Thread.sleep(20);
                    return latency(lab, out, knock.call());
                }));
                plainest.destroy();
                lab.startDaemon(List.of(installed), "--log", lab.kernLog.toString());
            }
            var random = new Random(1);
            for (var kind : List.of("noise", "forged")) {
                int count = kind.equals("noise") ? 1_000_000 : 20_000;
                var lines = new StringBuilder();
                for (int i = 0; i < count; i++) {
                    lines.append(Traces.line(new KnockCodec.Fields(random.nextInt(65536),
                            random.nextLong(1L << 32), 0, 0,
                            OptionalLong.of(random.nextLong(1L << 32)), false), kind.equals("noise")
                                    ? 80 : 666));
                }
                var file = Files.writeString(lab.work.resolve(kind), lines);
                var processorTimes = new ArrayList<Double>();
                Measures.row(kind + " lines through the daemon, " + profiles + " profile(s)",
                        "lines/s", Measures.repeat(5, () -> {
                    var before = lab.daemon().info().totalCpuDuration().orElseThrow();
                    long opened = lab.said("opened");
                    var knockLine = knock.call();
                    long start = System.nanoTime();
                    lab.must("sh", "-c", "cat " + file + " >> " + lab.kernLog);
                    Files.writeString(lab.kernLog, knockLine, StandardOpenOption.APPEND);
                    // looks again only when there is more, so as not to take the processor from the
                    // daemon
                    for (long seen = -1, size; (size = Files.size(lab.daemonOut)) == seen
                            || lab.said("opened") == opened; seen = size) {
                        Thread.sleep(1);
                    }
                    double took = Measures.seconds(start);
                    processorTimes.add(count * 1e9 / lab.daemon().info().totalCpuDuration()
                            .orElseThrow().minus(before).toNanos());
                    return count / took;
                }));
                Measures.row("the same, for each second of the daemon's processor time", "lines/s",
                        processorTimes);
                Files.writeString(lab.kernLog, "");
            }
            lab.stopDaemon();
            if (profiles == 1) {
                kmsg(lab, installed, jdk);
            }
        }
    }

    /** Milliseconds from a line in the log to what comes out of it. */
    private static double latency(Lab lab, Path out, String line) throws IOException {
        long size = Files.size(out);
        long start = System.nanoTime();
        Files.writeString(lab.kernLog, line, StandardOpenOption.APPEND);
        while (Files.size(out) == size) {
            LockSupport.parkNanos(20_000); // not all the time: the daemon needs processors too
        }
        return Measures.seconds(start) * 1000;
    }

    /**
     * Two hundred ports for open_ports: few of all, and enough that none has to be used twice
     * within the delay.
     */
    private static String ports() {
        return IntStream.range(1000, 1200).mapToObj(String::valueOf)
                .collect(Collectors.joining(","));
    }

    /** A flood beside the knock port and on it, read from /dev/kmsg; then nothing. */
    private void kmsg(Lab lab, String installed, String jdk) throws Exception {
        lab.startDaemon(List.of(installed));
        lab.flood(2000, 40);
        Lab.await("the flood", () -> lab.said("refused") >= 1);
        var family = Measures.tree(lab.daemon());
        Measures.row("20,000 SYNs/s elsewhere and 200/s on the knock port: daemon and firewall "
                + "half", "% of a core", Measures.repeat(5, () -> {
            double before = Measures.processorSeconds(family);
            Thread.sleep(4000);
            return (Measures.processorSeconds(family) - before) / 4 * 100;
        }));
        Measures.row("the same: overruns of the kernel log", "",
                List.of((double) lab.said("ran over")));
        lab.must("sh", "-c", "pkill hping3; sleep 1");
        Measures.idle("daemon and firewall half", lab.daemon());
        lab.stopDaemon();
        Files.writeString(lab.work.resolve("Empty.java"),
                "void main() throws Exception { Thread.sleep(120_000); }");
        lab.must(jdk + "/bin/javac", "-d", lab.work.toString(),
                lab.work.resolve("Empty.java").toString());
        var empty = lab.start(lab.work.resolve("empty"),
                List.of(jdk + "/bin/java", "-XX:+UseSerialGC", "-cp", lab.work.toString(),
                "Empty"));
        Measures.idle("for comparison: an empty JVM", empty);
    }

    private void client() throws Exception {
        try (var lab = new Lab()) {
            lab.profile("laptop", 666, Lab.SERVER);
            lab.serve(22);
            var installed = Install.fresh(lab).resolve("knockknock").toString();
            lab.startDaemon(List.of(Path.of(installed).resolveSibling("knockknock-daemon")
                    .toString()));
            Lab.sudoFor("(root) " + installed);
            var knock = lab.asAlice(List.of(installed, "-p", "22", Lab.SERVER));
            var connect = lab.asAlice(List.of("sh", "-c", installed + " -p 22 " + Lab.SERVER
                    + " && nc -z -w 3 " + Lab.SERVER + " 22"));
            var empty = Files.writeString(lab.work.resolve("Empty.java"),
                    "///usr/bin/env jbang\nvoid main() {}");
            lab.must(System.getProperty("java.home") + "/bin/javac", "-d", lab.work.toString(),
                    empty.toString());
            var emptyJvm = List.of(System.getProperty("java.home") + "/bin/java",
                    "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                    "-cp", lab.work.toString(), "Empty");
            Measures.row("an empty JVM", "ms", Measures.repeat(25, () -> Measures.time(emptyJvm)));
            Measures.row("an empty JVM, in the network and as the user of the rows below", "ms",
                    Measures.repeat(25, () -> Measures.time(lab.asAlice(emptyJvm))));
            Measures.row("knock command installed, as a user through sudo and setpriv, start to "
                    + "exit", "ms", Measures.repeat(25, () -> Measures.time(knock)));
            Measures.row("the same until a connection is accepted", "ms",
                    Measures.repeat(25, () -> Measures.time(connect)));
            var options = lab.work.resolve("prefix/lib/knockknock/knockknock.options");
            var asInstalled = Files.readString(options);
            var libraries = Stream.of(System.getProperty("java.class.path").split(":"))
                    .filter(jar -> jar.matches(".*/(picocli|bcprov)-.*")).toList();
            var withoutArchive = asInstalled.replaceAll("-XX:AOTCache=\\S+", "");
            Files.writeString(options, withoutArchive);
            Measures.row("the same command without its archive of classes", "ms",
                    Measures.repeat(25, () -> Measures.time(knock)));
            // named in the jar's manifest
            var classPath = Files.createDirectory(options.resolveSibling("lib"));
            lab.must("cp", libraries.get(0), libraries.get(1), classPath.toString());
            var published = libraries.stream()
                    .map(jar -> classPath.resolve(Path.of(jar).getFileName()).toString())
                    .collect(Collectors.joining(":"));
            Files.writeString(options, withoutArchive.replaceAll("(-Xbootclasspath/a:)\\S+", "$1"
                    + published));
            Measures.row("and with the libraries as they were published", "ms",
                    Measures.repeat(25, () -> Measures.time(knock)));
            Files.writeString(options, withoutArchive.replaceAll("-Xbootclasspath\\S+", ""));
            Measures.row("and without them on the boot class path", "ms",
                    Measures.repeat(25, () -> Measures.time(knock)));
            lab.must("rm", "-r", classPath.toString());
            Files.writeString(options, asInstalled);
            Measures.row("sudo -n -l", "ms",
                    Measures.repeat(25, () -> Measures.time(lab.asAlice(List.of("sudo", "-n",
                    "-l")))));
            lab.must("chown", "-R", "root", lab.home.toString());
            Measures.row("knock command not installed, without jbang", "ms",
                    Measures.repeat(15, () -> Measures.time(List.of(lab.knockCommand("-p", "22",
                    Lab.SERVER)))));
            Measures.row("knock command through jbang", "ms",
                    Measures.repeat(7, () -> Measures.time(Lab.on("client",
                    System.getenv("KNOCK_JBANG"),
                    "-Duser.home=" + lab.home, "knockknock.java", "-p", "22", Lab.SERVER))));
            Measures.row("an empty script through jbang", "ms",
                    Measures.repeat(7, () -> Measures.time(List.of(System.getenv("KNOCK_JBANG"),
                    empty.toString()))));
            lab.asAlice(List.of());
            Thread.sleep(4000);
            int connected = 0;
            for (int i = 0; i < 200; i++) {
                connected += lab.run(connect).exit() == 0 ? 1 : 0;
            }
            Measures.row("knock, then connect at once: connected", "of 200",
                    List.of((double) connected));
            lab.must("chown", "-R", "root", lab.home.toString());
            proxied(lab);
        }
    }

    /** A connection through the proxy, its knock included, from the SOCKS request to the reply. */
    private void proxied(Lab lab) throws Exception {
        var proxy = lab.start(lab.work.resolve("proxy"),
                Lab.on("client", Lab.withNetRaw(lab.script("knockknock-proxy", "1080"))));
        Lab.await("the proxy", () -> Files.readString(lab.work.resolve("proxy"))
                .contains("ready:"));
        var times = lab.mustOn("client", "python3", "-c", """
                import socket, time
                for i in range(300):
                    s = socket.create_connection(('127.0.0.1', 1080))
                    s.sendall(bytes([5, 1, 0])); assert s.recv(2) == bytes([5, 0])
                    t = time.time()
                    s.sendall(bytes([5, 1, 0, 1]) + socket.inet_aton('%s') + (22).to_bytes(2, \
                'big'))
                    assert s.recv(10)[1] == 0
                    if i >= 50: print((time.time() - t) * 1000)
                    s.close()
                    time.sleep(.02) # or the log rule's limit of 50 a second stops some
                """.formatted(Lab.SERVER)).lines().map(Double::valueOf).toList();
        Measures.row("connection through the proxy, its knock included", "ms", times);
        Measures.row("the same, 99th percentile", "ms",
                List.of(times.stream().sorted().toList().get(247)));
        proxy.destroy();
    }

    /** Runs what is named, or all of it. */
    static void run(List<String> parts) throws Exception {
        var bench = new Bench();
        if (parts.isEmpty() || parts.contains("server")) {
            bench.server(1);
            bench.server(1000);
        }
        if (parts.isEmpty() || parts.contains("client")) {
            bench.client();
        }
        if (parts.isEmpty() || parts.contains("proxies")) {
            ProxyBench.proxies();
        }
        Files.writeString(Path.of("bench.md"), Measures.TABLE);
    }
}
