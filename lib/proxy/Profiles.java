import java.io.IOException;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * The proxy's profiles: finds that of a host. They are read when they are needed, so that one that
 * is added or replaced meanwhile counts. Names are looked up in the background: a name server that
 * does not answer holds up no connection to an address, but for a second after the start.
 */
final class Profiles {
    private static final long FIRST_NANOS = 1_000_000_000L, FRESH_NANOS = 30_000_000_000L;

    /** A look-up of a profile's name, and what the one before it found. */
    private record Lookup(long started, Optional<Set<String>> before,
            CompletableFuture<Set<String>> answer) {
        private Set<String> known() throws InterruptedException {
            try {
                long wait = before.isPresent() ? 0 : started + FIRST_NANOS - System.nanoTime();
                return answer.get(wait, TimeUnit.NANOSECONDS);
            } catch (TimeoutException e) {
                return before.orElse(Set.of());
            } catch (ExecutionException e) {
                throw new IllegalStateException(e);
            }
        }
    }

    private final Path directory;
    private final Map<String, Lookup> lookups = new ConcurrentHashMap<>(); // by name
    /** By their files. To close one of a counter's channels gives up its lock: none is closed. */
    private final Map<List<Object>, Credentials> loaded = new HashMap<>();

    Profiles(Path directory) {
        this.directory = directory;
    }

    /** The hosts that have a profile at the moment, by name. */
    List<String> names() throws IOException {
        return Profile.list(directory).stream()
                .map(profile -> profile.getFileName().toString()).toList();
    }

    /** The one way to write a host: an address as the JDK does, a name without its last dot. */
    static String canonical(String host) {
        var text = host.matches("\\[.*]") ? host.substring(1, host.length() - 1) : host;
        return Addresses.isAddress(text) ? InetAddress.ofLiteral(text).getHostAddress()
                : text.toLowerCase(Locale.ROOT).replaceFirst("\\.$", "");
    }

    /** The profile of a host, by its name, or by an address that a profile's name has. */
    Optional<Credentials> find(String host) throws IOException, InterruptedException {
        lookUpNames(); // all at the same time
        var wanted = canonical(host);
        boolean isAddress = Addresses.isAddress(wanted);
        for (var name : names()) {
            if (canonical(name).equals(wanted) || isAddress && lookups.containsKey(name)
                    && lookups.get(name).known().contains(wanted)) {
                return Optional.of(load(directory.resolve(name)));
            }
        }
        return Optional.empty();
    }

    /** Starts to look up each name that is not an address, but not what was just looked up. */
    void lookUpNames() throws IOException {
        for (var name : names()) {
            if (!Addresses.isAddress(canonical(name))) {
                lookups.compute(name, (_, last) -> last == null ? lookUp(name, Optional.empty())
                        : last.answer.isDone() && System.nanoTime() - last.started > FRESH_NANOS
                        ? lookUp(name, Optional.of(last.answer.join())) : last);
            }
        }
    }

    private static Lookup lookUp(String name, Optional<Set<String>> before) {
        var answer = new CompletableFuture<Set<String>>();
        Thread.startVirtualThread(() -> {
            try {
                answer.complete(Stream.of(InetAddress.getAllByName(name))
                        .map(InetAddress::getHostAddress).collect(Collectors.toSet()));
            } catch (UnknownHostException e) {
                if (before.isEmpty()) {
                    Cli.complain("warning: the name of the profile " + name
                            + " is unknown at the moment");
                }
                answer.complete(before.orElse(Set.of()));
            }
        });
        return new Lookup(System.nanoTime(), before, answer);
    }

    private synchronized Credentials load(Path profile) throws IOException {
        var version = new ArrayList<Object>(List.of(profile));
        for (var file : List.of("counter", "config", "cipher.key", "mac.key")) {
            var path = profile.resolve(file);
            if (Files.exists(path)) { // if not, loading says so
                version.add(Files.getAttribute(path, "unix:ino"));
                version.add(file.equals("counter") ? "" : Files.getLastModifiedTime(path));
            }
        }
        var known = loaded.get(version);
        if (known == null) {
            known = Credentials.load(Profile.read(profile));
            loaded.put(version, known);
        }
        return known;
    }
}
