import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;

import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AutoClose;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Attacks on what the commands may do, by those who start them and by those who have taken one over; nothing is mocked. */
class PrivilegeTest {
    /** Megabytes of address space: from too little for a JVM to begin with, to enough for it. */
    private static final List<Integer> LIMITS = Stream.of(IntStream.range(1, 24).map(i -> 100 * i),
            IntStream.range(0, 20).map(i -> 2400 + 35 * i), IntStream.rangeClosed(0, 9).map(i -> 3100 + 100 * i))
            .flatMapToInt(s -> s).boxed().toList();
    private static final int PIDS = 16_000; // that a report could be named after
    private static final String LINE = "\nalice ALL=(ALL) NOPASSWD: ALL\n";
    private static final String NO_CAPABILITY = "0000000000000000", NET_ADMIN = "0000000000001000", NET_RAW = "0000000000002000";
    @AutoClose
    private static Lab lab;
    private static Path bin;

    @BeforeAll
    static void install() throws Exception {
        lab = new Lab();
        lab.profile("laptop", 666, Lab.SERVER);
        bin = lab.install();
    }

    @AfterAll
    static void remove() throws Exception {
        lab.must("env", "PREFIX=" + bin.getParent(), "./install.sh", "--remove");
    }

    // A place for attacks with a crashing JVM

    /**
     * Starts a process with a /tmp, /var/tmp, /run and /root of its own, where alice has put links to a file in
     * /etc/sudoers.d under every name that a JVM or the kernel could give to a report.
     */
    private static Process prepareGround() throws Exception {
        var ready = lab.work.resolve("ground");
        Files.deleteIfExists(ready);
        var ground = lab.start(ready, Lab.on("client", "unshare", "--mount", "sh", "-ec", """
                mount --bind "$0" /mnt; mount -t tmpfs -o mode=1777 tmpfs /tmp; mkdir "$0"; mount --move /mnt "$0"
                for dir in /var/tmp /run /root; do mount -t tmpfs tmpfs $dir; done
                mkdir -m 777 /tmp/alice; mkdir -m 700 /tmp/trace; echo ready; exec sleep infinity
                """, lab.work.toString()));
        Lab.await("the attacker's ground", () -> Files.readString(ready).equals("ready\n"));
        var tmp = Path.of("/proc/" + ground.pid() + "/root/tmp");
        var target = Path.of("/etc/sudoers.d/attack");
        Files.createSymbolicLink(tmp.resolve("alice/core"), target);
        for (long i = 0, first = nextPid(), max = maxPid(); i < PIDS; i++) {
            long pid = (first + i) % max;
            for (var name : List.of("alice/hs_err_pid" + pid + ".log", "alice/replay_pid" + pid + ".log", "alice/core." + pid,
                    "hs_err_pid" + pid + ".log")) { // HotSpot never follows a link for a replay file
                Files.createSymbolicLink(tmp.resolve(name), target);
            }
        }
        return ground;
    }

    private static long nextPid() throws Exception {
        return Long.parseLong(lab.must("sh", "-c", "echo $$").strip());
    }

    private static long maxPid() throws Exception {
        return Long.parseLong(lab.must("sysctl", "-n", "kernel.pid_max").strip());
    }

    /** A command for there; with a limit it starts in alice's directory, and may write cores. */
    private static List<String> inside(Process ground, List<String> command) {
        return join(List.of("nsenter", "--target", "" + ground.pid(), "--mount", "--net"), command);
    }

    private static List<String> limited(int megabytes) {
        return List.of("prlimit", "--as=" + megabytes * 1_000_000L, "--core=unlimited", "env", "-C", "/tmp/alice",
                "JAVA_TOOL_OPTIONS=-XX:-ErrorFileToStderr", "JDK_JAVA_OPTIONS=-XX:ErrorFile=/tmp/alice/hs_err_pid%p.log",
                "_JAVA_OPTIONS=-XX:OnError=/tmp/alice/x -XX:OnOutOfMemoryError=/tmp/alice/x", "CLASSPATH=/tmp/alice");
    }

    private static List<String> asAlice(List<String> command) throws Exception {
        var all = lab.asAlice(command);
        return all.subList(all.indexOf("setpriv"), all.size()); // she is in her network already
    }

    @SafeVarargs
    private static List<String> join(List<String>... parts) {
        return Stream.of(parts).flatMap(List::stream).toList();
    }

    /** Every file that is neither alice's nor the lab's, with owner, mode, size, time of the last change and target. */
    private static Set<String> files(Process ground) throws Exception {
        var print = List.of("-printf", "%p %u %m %s %C@ %l\n");
        return new TreeSet<>(List.of((lab.must(inside(ground, join(List.of("find", "/", "-maxdepth", "1", "!", "-type", "d"), print)))
                + lab.must(inside(ground, join(List.of("find", "/etc", "/home", "/root", "/run", "/tmp", "/var/spool", "/var/tmp",
                "" + bin.getParent(), "" + lab.dir, "-path", "/tmp/alice", "-prune", "-o", "-path", "/tmp/trace", "-prune", "-o",
                "-path", "" + lab.work, "-prune", "-o"), print)))).split("\n")));
    }

    private static Set<String> without(Set<String> files, Set<String> others) {
        return files.stream().filter(file -> !others.contains(file)).collect(Collectors.toCollection(TreeSet::new));
    }

    private static boolean isFromHotSpot(Lab.Result result) {
        return result.exit() != 0 && result.err().contains("# There is insufficient memory for the Java Runtime Environment");
    }

    @Test
    void aClientThatCrashesUnderSudoWritesNothingForItsUserAndIsNeverRoot() throws Exception {
        asAlice(List.of());
        Files.writeString(Path.of("/etc/sudoers.d/alice"), "alice ALL=(root) NOPASSWD: " + bin.resolve("knockknock") + "\n");
        long first = nextPid();
        var ground = prepareGround();
        var before = files(ground);
        var uid = lab.must("id", "-u", "alice").strip();
        int crashes = 0, knocks = 0, step = 0, machines = 0;
        for (int limit : LIMITS) {
            for (var host : List.of(LINE, Lab.SERVER)) {
                var result = lab.run(inside(ground, join(List.of("strace", "-ff", "-qq", "-e", "signal=none",
                        "-e", "trace=execve,execveat,setuid,setreuid,setresuid", "-o", "/tmp/trace/" + step++), limited(limit),
                        asAlice(List.of(bin.resolve("knockknock").toString(), "-p", "1", host)))));
                crashes += isFromHotSpot(result) ? 1 : 0;
                knocks += result.exit() == 0 ? 1 : 0;
                if (limit > 3900) { System.out.println(result); }
                assertFalse(result.err().contains("Picked up"), result.err());
            }
        }
        try (var traces = Files.list(Path.of("/proc/" + ground.pid() + "/root/tmp/trace"))) { // one for each process
            for (var trace : traces.toList()) {
                var calls = Files.readAllLines(trace);
                for (int i = 0; i < calls.size(); i++) {
                    if (calls.get(i).matches("execve\\(\"[^\"]*/java\".* = 0")) {
                        machines++;
                        assertTrue(calls.get(i - 1).matches("setresuid\\(U, U, U\\) += 0".replace("U", uid)), calls.toString());
                    }
                }
            }
        }
        System.out.println(step + " " + crashes + " " + knocks + " " + machines + " " + (nextPid() - first));
        assertTrue(machines > step / 2, "JVMs: " + machines);
        assertTrue(crashes > 0 && knocks > 0, crashes + " crashes, " + knocks + " knocks");
        assertTrue((nextPid() - first + maxPid()) % maxPid() < PIDS, "the links had the right names");
        assertEquals(Set.of(), without(files(ground), before), "made or changed");
        assertEquals(Set.of(), without(before, files(ground)), "removed or changed");
        assertEquals(1, lab.run(inside(ground, asAlice(List.of("sudo", "-n", "id")))).exit());
    }

    @ParameterizedTest
    @ValueSource(strings = {"knockknock-genprofile", "knockknock-daemon"})
    void aServersCommandThatCrashesAsRootWritesNoReport(String command) throws Exception {
        asAlice(List.of());
        long first = nextPid();
        var ground = prepareGround();
        var before = files(ground);
        int crashes = 0, done = 0, step = 0;
        for (int limit : LIMITS) {
            var arguments = command.equals("knockknock-daemon") ? List.of("--check") : List.of("p" + ++step, "" + step);
            var result = lab.run(inside(ground, join(limited(limit), List.of(bin.resolve(command).toString(), "--dir", "/tmp/trace/server"),
                    arguments)));
            crashes += isFromHotSpot(result) ? 1 : 0;
            done += result.exit() == 0 ? 1 : 0;
            assertFalse(result.err().contains("Picked up"), result.err());
        }
        System.out.println(crashes + " " + done + " " + (nextPid() - first));
        assertTrue(crashes > 0, "crashes");
        assertEquals(Set.of(), without(files(ground), before).stream().filter(file -> !file.startsWith("/tmp/hsperfdata_root"))
                .collect(Collectors.toSet()));
        assertFalse(Files.exists(Path.of("/etc/sudoers.d/attack")));
    }
}
