import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.stream.Stream;

import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.AutoClose;
import org.junit.jupiter.api.BeforeAll;

/** The installed commands, on a server and for a user of a client. */
abstract class Installed {
    static final int PIDS = 6_000; // more than a test uses up
    static final String LINE = "\nalice ALL=(ALL) NOPASSWD: ALL\n";
    static final Path ATTACK = Path.of("/etc/sudoers.d/attack");
    static final String NONE = "0000000000000000";
    static final String NET_ADMIN = "0000000000001000", NET_RAW = "0000000000002000";
    /**
     * HotSpot's own threads start before the program, and keep the capability that the program
     * gives up.
     */
    static final Set<String> HOTSPOTS =
            Set.of("VM Thread", "VM Periodic Tas", "Reference Handl", "Finalizer",
            "Signal Dispatch", "Service Thread", "Monitor Deflati", "C1 CompilerThre",
                    "C2 CompilerThre",
            "Notification Th", "Common-Cleaner");
    @AutoClose
    static Lab lab;
    static Path bin;

    @BeforeAll
    static void install() throws Exception {
        lab = new Lab();
        lab.profile("laptop", 666, Lab.SERVER);
        bin = Install.shared(lab);
        if (lab.run(List.of("getent", "passwd", "knockknock")).exit() != 0) {
            lab.must("useradd", "--system", "--no-create-home", "knockknock");
        }
        lab.asAlice(List.of());
        // if the host has an alice of its own
        lab.must("usermod", "--home", lab.home.toString(), "alice");
    }

    @AfterEach
    void endAll() throws Exception {
        var all = ProcessHandle.current().descendants().toList();
        all.forEach(ProcessHandle::destroyForcibly);
        Lab.await("all to end", () -> all.stream().noneMatch(ProcessHandle::isAlive));
        Files.deleteIfExists(ATTACK);
    }

    @AfterAll
    static void remove() throws Exception {
        lab.must("userdel", "knockknock");
    }

    static String command(String name) {
        return bin.resolve(name).toString();
    }

    @SafeVarargs
    static List<String> join(List<String>... parts) {
        return Stream.of(parts).flatMap(List::stream).toList();
    }

    static String proc(long pid, String file) throws IOException {
        return Files.readString(Path.of("/proc/" + pid + "/" + file)).strip();
    }

    static List<String> asAlice(List<String> command) throws Exception {
        var all = lab.asAlice(command);
        return all.subList(all.indexOf("setpriv"), all.size()); // in her network already
    }

    static ProcessHandle child(ProcessHandle parent) {
        return parent.children().findFirst().orElseThrow();
    }

    static void awaitText(Path file, String text) throws Exception {
        Lab.await(() -> text + " in " + Files.readString(file),
                () -> Files.readString(file).contains(text));
    }

    /** The daemon and its descendants: its firewall half and, if it follows a file, tail. */
    static List<ProcessHandle> family(ProcessHandle daemon, boolean file) throws Exception {
        var family = Stream.concat(Stream.of(daemon), daemon.descendants()).toList();
        var names = new ArrayList<String>();
        for (var process : family) {
            names.add(proc(process.pid(), "comm"));
        }
        names.sort(null);
        assertEquals(file ? List.of("java", "java", "tail") : List.of("java", "java"), names);
        return family;
    }

    static void assertGone(List<ProcessHandle> family) throws Exception {
        Lab.await("all to end", () -> family.stream().noneMatch(ProcessHandle::isAlive));
        assertFalse(lab.mustOn("server", "nft", "list", "tables").contains("knockknock"));
        var running = lab.must("ps", "axww", "-o", "args");
        assertFalse(Stream.of("KnockknockFirewall", "tail -v").anyMatch(running::contains),
                running);
    }

    static String emptyLog() throws Exception {
        lab.must("install", "-m", "640", "-g", "adm", "/dev/null", lab.kernLog.toString());
        return lab.kernLog.toString();
    }
}
