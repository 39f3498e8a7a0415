import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/** Times, memory and processor of real processes, and a Markdown table of them. */
final class Measures {
    private Measures() {}

    static final StringBuilder TABLE =
            new StringBuilder("| what | median | least | most | runs |\n|---|---|---|---|---|\n");

    static void row(String what, String unit, List<Double> values) {
        var sorted = values.stream().sorted().toList();
        var line = "| %s | %s %s | %s | %s | %d |%n".formatted(what,
                number(sorted.get(sorted.size() / 2)), unit,
                number(sorted.getFirst()), number(sorted.getLast()), sorted.size());
        TABLE.append(line);
        System.out.print(line);
    }

    static String number(double value) {
        return value >= 100 ? "%,.0f".formatted(value) : "%.2f".formatted(value);
    }

    static <T> List<T> repeat(int times, Callable<T> measure) throws Exception {
        var values = new ArrayList<T>();
        for (int i = 0; i < times; i++) {
            values.add(measure.call());
        }
        return values;
    }

    static double seconds(long since) {
        return (System.nanoTime() - since) / 1e9;
    }

    static double time(List<String> command) throws Exception {
        long start = System.nanoTime();
        int exit = new ProcessBuilder(command).redirectOutput(ProcessBuilder.Redirect.DISCARD)
                .start().waitFor();
        if (exit != 0) {
            throw new AssertionError(command);
        }
        return seconds(start) * 1000;
    }

    static double processorSeconds(List<ProcessHandle> processes) {
        return processes.stream().mapToLong(process -> process.info().totalCpuDuration()
                .orElseThrow().toNanos()).sum() / 1e9;
    }

    /** What a process and its children cost while nothing happens. */
    static void idle(String what, Process process) throws Exception {
        var processes = tree(process);
        Thread.sleep(65_000); // once a minute the daemon gives memory back
        long before = switches(processes);
        Thread.sleep(20_000);
        row(what + ", idle: wake-ups", "/s", List.of((switches(processes) - before) / 20.0));
        row(what + ": memory", "MB PSS", List.of(memory(processes)));
    }

    static List<ProcessHandle> tree(Process process) {
        return Stream.concat(Stream.of(process.toHandle()), process.descendants()).toList();
    }

    static double memory(List<ProcessHandle> processes) throws IOException {
        double kilobytes = 0;
        for (var process : processes) {
            kilobytes += Traces.kilobytes(process.pid(), "smaps_rollup", "Pss");
        }
        return kilobytes / 1024;
    }

    static long switches(List<ProcessHandle> processes) throws IOException {
        long sum = 0;
        for (var process : processes) {
            try (var tasks = Files.newDirectoryStream(Path.of("/proc/" + process.pid()
                    + "/task"))) {
                for (var task : tasks) {
                    var switches = Pattern.compile("voluntary_ctxt_switches:\\s+(\\d+)")
                            .matcher(Files.readString(task.resolve("status")));
                    sum += switches.find() ? Long.parseLong(switches.group(1)) : 0;
                }
            }
        }
        return sum;
    }
}
