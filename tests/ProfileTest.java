import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.net.InetAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.Optional;
import java.util.concurrent.ConcurrentSkipListSet;
import java.util.concurrent.Executors;

import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/**
 * Profile directories: the original's files work, damaged ones are refused with the remedy,
 * counters are used once.
 */
class ProfileTest {
    @TempDir
    private Path dir;

    @BeforeEach
    void asTheOriginalWritesThem() throws IOException {
        write("cipher.key", "AAECAwQFBgcICQoLDA0ODw==\n");
        write("mac.key", "AAECAwQFBgcICQoLDA0ODw==\n");
        write("counter", "42\n");
        write("config", "[main]\nknock_port = 666\n");
    }

    private void write(String file, String text) throws IOException {
        Files.writeString(dir.resolve(file), text);
        Files.setPosixFilePermissions(dir.resolve(file),
                PosixFilePermissions.fromString("rw-------"));
    }

    private static long take(Counter counter) throws IOException {
        try (var lock = CounterLock.of(counter)) {
            return lock.take();
        }
    }

    private String refusal() {
        return assertThrows(Failure.class, () -> Lab.credentials(dir).counter().read())
                .getMessage();
    }

    @Test
    void theOriginalsFilesWorkAsTheyAre() throws IOException {
        var profile = Lab.credentials(dir);
        assertEquals(new Profile(dir, 666, Optional.empty(), 1, Carrier.COVER,
                Profile.Source.Rule.IF_PUBLIC, 0), profile.profile());
        assertEquals(42, take(profile.counter()));
        assertEquals(43, take(profile.counter()));
        assertEquals("0000000044\n", Files.readString(dir.resolve("counter")));
    }

    @Test
    void settingsAreReadStrictly() throws IOException {
        write("config", "[main]\n# for the laptop\nknock_port = 666\nopen_ports = 22, 443, "
                + "51820/udp\nconnections = 6\ncarrier = classic\nsource = 203.0.113.7\n");
        assertEquals(new Profile(dir, 666, Optional.of(Ports.list("22,443,51820/udp")), 6,
                Carrier.CLASSIC,
                new Profile.Source.Other(InetAddress.ofLiteral("203.0.113.7")), 0),
                        Profile.read(dir));
        for (var bad : new String[] {"knock_port = 0", "knock_port = 65536", "knock_port = x",
                "knock_port =", "port = 1",
            "knock_port = 1\nknock_port = 1", "knock_port = 1\nopen_ports =",
                    "knock_port = 1\nopen_ports = 22/tcp", "knock_port = 1\nopen_ports = 22,22/udp",
                    "knock_port = 1\nopen_ports = /udp",
            "knock_port = 1\nopen_ports = 1-9", "knock_port = 1\nconnections = 0",
                    "knock_port = 1\nconnections = 51", "knock_port = 1\nconnections =",
                    "knock_port = 1\ncarrier = loud", "knock_port = 1\nsource =",
                    "knock_port = 1\nsource = example.org", "gibberish", ""}) {
            write("config", "[main]\n" + bad + "\n");
            assertTrue(refusal().contains(dir.resolve("config").toString()), bad);
        }
    }

    @Test
    void keysThatOthersCanReadAreRefusedWithTheRemedy() throws IOException {
        Files.setPosixFilePermissions(dir.resolve("mac.key"),
                PosixFilePermissions.fromString("rw-r-----"));
        assertTrue(refusal().endsWith("chmod 600 " + dir.resolve("mac.key")));
    }

    @Test
    void damagedKeysAndCountersAreRefusedAndStayAsTheyAre() throws IOException {
        for (var bad : new String[] {"", "AAECAwQFBgcICQoLDA0O\n", "AAECAwQFBgcICQoLDA0ODw",
                "AAECAwQFBgcICQoLDA0ODxA=\n", "?"}) {
            write("cipher.key", bad);
            assertTrue(refusal().contains("cipher.key is damaged"), bad);
        }
        asTheOriginalWritesThem();
        for (var bad : new String[] {"", "\n", "-1\n", "4294967297\n", "12345678901\n", "0x10\n",
                "7 \n", "7\n8\n", "abc"}) {
            write("counter", bad);
            assertTrue(refusal().contains("counter is damaged"), bad);
            assertEquals(bad, Files.readString(dir.resolve("counter")));
        }
        Files.delete(dir.resolve("counter"));
        assertTrue(refusal().contains("counter is missing"));
    }

    @Test
    void theLastCounterIsUsedAndThenTheProfileIsExhausted() throws IOException {
        write("counter", "4294967295\n");
        var counter = Lab.credentials(dir).counter();
        assertEquals(4294967295L, take(counter));
        assertTrue(assertThrows(Failure.class, () -> take(counter)).getMessage()
                .contains("make a new one"));
    }

    @Test
    void aCounterFileThatWasRemovedOrReplacedIsNotBelieved() throws IOException {
        var removed = Lab.credentials(dir).counter();
        Files.delete(dir.resolve("counter"));
        assertThrows(IOException.class, () -> take(removed));
        asTheOriginalWritesThem();
        var replaced = Lab.credentials(dir).counter();
        assertEquals(42, take(replaced));
        write("new", "7\n");
        Files.move(dir.resolve("new"), dir.resolve("counter"),
                java.nio.file.StandardCopyOption.REPLACE_EXISTING);
        assertThrows(IOException.class, () -> take(replaced));
    }

    @Test
    void threadsOfOneProcessNeverShareACounter() throws Exception {
        var counter = Lab.credentials(dir).counter();
        var taken = new ConcurrentSkipListSet<Long>();
        try (var threads = Executors.newVirtualThreadPerTaskExecutor()) {
            for (int i = 0; i < 200; i++) {
                threads.submit(() -> taken.add(take(counter)));
            }
        }
        assertEquals(200, taken.size());
        assertEquals(242, counter.read());
    }
}
