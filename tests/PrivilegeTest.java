import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Who holds which privilege, who reaches whom, and what other users can do to the log. */
class PrivilegeTest extends Installed {
    /**
     * What every thread of a process holds: by thread, its status as far as this is about
     * privileges.
     */
    private static Map<Path, Map<String, String>> held(long pid) throws IOException {
        var held = new HashMap<Path, Map<String, String>>();
        for (var thread : entries(pid, "task")) {
            try {
                held.put(thread, Files.readAllLines(thread.resolve("status")).stream()
                        .map(line -> line.split(":\\s*", 2))
                        .filter(pair -> pair[0].matches("Name|[UG]id|Groups|Cap...|NoNewPrivs"))
                        .collect(Collectors.toMap(pair -> pair[0], pair -> pair[1].strip())));
            } catch (IOException e) {
                assertFalse(Files.exists(thread), e.toString()); // it has ended since
            }
        }
        return held;
    }

    private static void assertHolds(String uid, String gid, String group, String capabilities,
            Map<String, String> thread) {
        assertEquals(String.join("\t", uid, uid, uid, uid), thread.get("Uid"), thread.toString());
        assertEquals(String.join("\t", gid, gid, gid, gid), thread.get("Gid"), thread.toString());
        assertEquals(group, thread.get("Groups"), thread.toString());
        for (var set : List.of("CapInh", "CapPrm", "CapEff", "CapAmb")) {
            assertEquals(capabilities, thread.get(set), thread.toString());
        }
    }

    private static List<Path> entries(long pid, String dir) throws IOException {
        try (var entries = Files.list(Path.of("/proc/" + pid + "/" + dir))) {
            return entries.toList();
        }
    }

    /** A process of a user who has these capabilities and nothing else. */
    private static List<String> as(String user, String capabilities) {
        return List.of("setpriv", "--reuid=" + user, "--regid=" + user, "--clear-groups",
                "--bounding-set=" + capabilities, "--inh-caps=" + capabilities, "--ambient-caps="
                        + capabilities,
                "env", "PATH=/usr/bin:/bin"); // root's may have a python3 that is only root's
    }

    /**
     * What a user gets at in another process: its memory, environment, descriptors, or all of it.
     */
    private static Set<String> reached(List<String> user, long pid) throws Exception {
        var getFd = "import ctypes, os; exit(ctypes.CDLL(None).syscall(438, os.pidfd_open(PID), "
                + "0, 0) < 0)";
        var reached = new TreeSet<String>();
        for (var attack : List.of("dd count=0 if=/proc/PID/mem", "cat /proc/PID/environ",
                "head /proc/PID/maps",
                "readlink /proc/PID/fd/0", "timeout 1 strace -p PID", "python3 -c")) {
            var command = new ArrayList<>(List.of(attack.replace("PID", "" + pid).split(" ")));
            if (command.getFirst().equals("python3")) {
                command.add(getFd.replace("PID", "" + pid));
            }
            var result = lab.run(join(user, command));
            if (result.exit() == 0 || result.err().contains(" attached\n")) {
                reached.add(command.getFirst());
            }
        }
        return reached;
    }

    /**
     * Shows that the attacks work, on a process of the same user that has nothing to protect it.
     */
    private static void assertReachesItsOwn(List<String> user) throws Exception {
        var sleep = lab.start(lab.work.resolve("sleep"), join(user, List.of("sleep", "infinity")));
        Lab.await("sleep", () -> proc(sleep.pid(), "comm").equals("sleep"));
        assertEquals(Set.of("dd", "cat", "head", "readlink", "timeout", "python3"),
                reached(user, sleep.pid()));
    }

    @ParameterizedTest
    @ValueSource(booleans = {false, true})
    void aReadyServerHoldsNothingOfRootsAndItsHalvesDoNotReachEachOther(
            boolean file) throws Exception {
        var marker = Files.writeString(lab.work.resolve("marker"), "").toRealPath();
        var start = List.of("setpriv", "--groups=0,1,2", "env", "SECRET=1", "bash", "-c",
                "exec 5< $0 9<> $0 57>> $0; exec \"$@\"", marker.toString());
        // the launcher would clear the environment
        lab.startDaemon(join(start, lab.script("knockknock-daemon")),
                file ? new String[] {"--log", emptyLog()} : new String[0]);
        var uid = lab.must("id", "-u", "knockknock").strip();
        var gid = lab.must("id", "-g", "knockknock").strip();
        var adm = lab.must("getent", "group", "adm").split(":")[2];
        var daemon = lab.daemon().toHandle();
        var family = family(daemon, file);
        ProcessHandle half = null;
        for (var process : family) {
            var name = proc(process.pid(), "cmdline").replace('\0', ' ');
            half = name.contains(" KnockknockFirewall ") ? process : half;
            boolean privileged = name.contains(" KnockknockFirewall ");
            for (var thread : held(process.pid()).values()) {
                assertHolds(uid, gid, file && !privileged ? adm : "", privileged ? NET_ADMIN : NONE,
                        thread);
                assertTrue(!privileged || thread.get("CapBnd").equals(NET_ADMIN),
                        thread.toString());
                assertTrue(!privileged || thread.get("NoNewPrivs").equals("1"), thread.toString());
            }
            if (!process.equals(daemon)) {
                var environment = Set.of(proc(process.pid(), "environ").split("\0"));
                assertEquals(privileged ? Set.of("PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                        "LC_ALL=C.UTF-8") : Set.of(""),
                        environment, name);
                // the daemon's own sudo and systemd close
                for (var descriptor : entries(process.pid(), "fd")) {
                    assertNotEquals(marker, Files.readSymbolicLink(descriptor), name);
                }
            }
        }
        var sameUser = as("knockknock", "-all");
        assertReachesItsOwn(sameUser);
        assertEquals(Set.of(), reached(sameUser, half.pid()),
                "the same user, and so the daemon, at the half");
        assertEquals(Set.of(), reached(sameUser, daemon.pid()), "the same user at the daemon");
        assertEquals(Set.of(), reached(as("knockknock", "-all,+net_admin"), daemon.pid()),
                "the half at the daemon");
        lab.stopDaemon();
        assertGone(family);
    }

    @Test
    void nobodyButRootCanMakeTheHalfsClassPathAgain() throws Exception {
        lab.startDaemon(List.of(command("knockknock-daemon")));
        var arguments = proc(child(lab.daemon().toHandle()).pid(), "cmdline").split("\0");
        var classPath = arguments[List.of(arguments).indexOf("-cp") + 1];
        var directory = Path.of(classPath).getParent().toString();
        assertFalse(Files.exists(Path.of(directory)), classPath);
        for (var user : List.of(as("knockknock", "-all"), as("knockknock", "-all,+net_admin"),
                as("alice", "-all"))) {
            assertNotEquals(0, lab.run(join(user, List.of("mkdir", directory))).exit(), directory);
        }
        lab.must("mkdir", directory); // nothing else is in the way
        lab.must("rmdir", directory);
    }

    @Test
    void aThreadDumpDoesNotPassForAnswers() throws Exception {
        lab.startDaemon(List.of(command("knockknock-daemon")));
        var family = family(lab.daemon().toHandle(), false);
        lab.must("kill", "-QUIT", "" + child(family.getFirst()).pid());
        Lab.await("the dump", () -> lab.said("Full thread dump") == 1);
        var knock = lab.asAlice(List.of(command("knockknock"), "-p", "22", Lab.SERVER));
        knock.addAll(knock.indexOf("setpriv") + 1,
                List.of("--inh-caps=-all,+net_raw", "--ambient-caps=-all,+net_raw"));
        lab.must(knock);
        Lab.await("the knock", () -> lab.said("opened port 22") == 1);
        lab.stopDaemon();
        assertGone(family);
    }

    @Test
    void aReadyProxyHasNoCapabilityWhereItsOwnCodeRunsAndItsUserDoesNotReachIt() throws Exception {
        var out = lab.work.resolve("proxy");
        var command = lab.asAlice(List.of(command("knockknock-proxy"), "1080"));
        command.addAll(command.indexOf("setpriv") + 1,
                List.of("--inh-caps=-all,+net_raw", "--ambient-caps=-all,+net_raw"));
        var proxy = lab.start(out, command);
        awaitText(out, "ready:");
        // It serves somebody, so that it has all its threads.
        lab.start(lab.work.resolve("service"), Lab.on("client", "nc", "-lk", "127.0.0.1", "99"));
        Lab.await("the service", () -> !lab.mustOn("client", "ss", "-Hltn", "sport = :99")
                .isEmpty());
        lab.start(lab.work.resolve("user"),
                Lab.on("client", "nc", "-X", "5", "-x", "127.0.0.1:1080", "127.0.0.1", "99"));
        Lab.await("the connection", () -> !lab.mustOn("client", "ss", "-Htn", "dport = :99")
                .isEmpty());

        var uid = lab.must("id", "-u", "alice").strip();
        var gid = lab.must("id", "-g", "alice").strip();
        var own = new TreeSet<String>();
        held(proxy.pid()).forEach((path, thread) -> {
            // the first only waits for main's
            boolean hotSpots = HOTSPOTS.contains(thread.get("Name"))
                    || path.endsWith("" + proxy.pid());
            boolean has = hotSpots && thread.get("CapPrm").equals(NET_RAW);
            assertHolds(uid, gid, "", has ? NET_RAW : NONE, thread);
            if (!hotSpots) {
                own.add(thread.get("Name"));
            }
        });
        assertTrue(own.containsAll(Set.of("java", "Thread-0", "Thread-1", "ForkJoinPool-1-")),
                own.toString());
        assertReachesItsOwn(as("alice", "-all"));
        assertEquals(Set.of(), reached(as("alice", "-all"), proxy.pid()));
        assertEquals(Set.of(), reached(as("alice", "-all,+net_raw"), proxy.pid()));
    }

    @Test
    void rsyslogKeepsAFloodOfForgedSynsOutOfItsFilesWhileKnocksAmongThemOpen() throws Exception {
        var config = Files.writeString(lab.work.resolve("rsyslog.conf"), """
                module(load="%s")
                kern.* DIR/before-drop-in
                $IncludeConfig %s
                *.*;auth,authpriv.none DIR/syslog
                kern.* DIR/kern.log
                """.formatted(System.getenv("KNOCK_KERNEL_INPUT"),
                        bin.resolveSibling("10-knockknock.conf"))
                .replace("DIR", lab.work.toString()));
        lab.start(lab.work.resolve("rsyslog.out"),
                List.of("/usr/sbin/rsyslogd", "-n", "-f", config.toString(),
                "-i", lab.work.resolve("rsyslog.pid").toString()));
        awaitMark("start");
        lab.profile("phone", 6514, Lab.SERVER6); // a port that no other test's lines are of
        lab.serve(22);
        lab.startDaemon(List.of(command("knockknock-daemon")));
        var flood = lab.start(lab.work.resolve("hping3"),
                Lab.on("client", "timeout", "60", "hping3", "-q", "-S",
                "--rand-source", "-p", "6514", "-i", "u2000", "-c", "2000", Lab.SERVER));
        do {
            long opened = lab.said("opened port 22");
            lab.must(lab.knockCommand("-p", "22", Lab.SERVER6));
            Lab.await("the knock", () -> lab.said("opened port 22") > opened);
            assertTrue(lab.connects(Lab.SERVER6, 22), lab.said());
        } while (flood.isAlive());
        assertFalse(lab.connects(Lab.SERVER6, 22));
        // What the kernel says of a process by a name like the rule's prefix is no knock, and
        // stays.
        lab.run(List.of("python3", "-c",
                "import ctypes; ctypes.CDLL(None).prctl(15, b'knockknock: IN='); "
                + "ctypes.string_at(0)"));
        awaitMark("end");

        long logged = lines("before-drop-in", "knockknock: IN=.* DPT=6514 ");
        assertTrue(logged > 1500, logged + " of 2000 reached rsyslog");
        for (var file : List.of("kern.log", "syslog")) {
            assertEquals(0, lines(file, "knockknock: IN=.* SYN URGP="));
            assertEquals(1, lines(file, "knockknock: IN=\\[\\d+\\]: segfault"));
        }
    }

    private long lines(String file, String pattern) throws IOException {
        try (var lines = Files.lines(lab.work.resolve(file), StandardCharsets.ISO_8859_1)) {
            return lines.filter(Pattern.compile(pattern).asPredicate()).count();
        }
    }

    /** Waits until the log files have something of now, and so all that came before it. */
    private void awaitMark(String name) throws Exception {
        var mark = name + System.nanoTime() + ": ";
        lab.mustOn("server", "iptables", "-I", "INPUT", "-p", "udp", "--dport", "9", "-j", "LOG",
                "--log-prefix", mark);
        Lab.await(name, () -> {
            lab.mustOn("client", "bash", "-c", "echo > /dev/udp/" + Lab.SERVER + "/9");
            return Files.exists(lab.kernLog) && lines("kern.log", mark) > 0
                    && lines("syslog", mark) > 0;
        });
    }
}
