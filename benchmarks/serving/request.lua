-- Sends the bodies of a file, one a line, over and over; prints what it measured as one line of JSON.
--   wrk ... -s request.lua URL -- BODIES
local bodies, n = {}, 0

function init(arguments)
  for line in io.lines(arguments[1]) do bodies[#bodies + 1] = line end
end

function request()
  n = n % #bodies + 1
  return wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, bodies[n])
end

function done(summary, latency, requests)
  local failed = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write
  io.write(string.format(
    'result {"requests": %d, "failed": %d, "timeouts": %d, "duration_s": %.6f, '
      .. '"p50_ms": %.4f, "p95_ms": %.4f, "p99_ms": %.4f}\n',
    summary.requests, failed, summary.errors.timeout, summary.duration / 1e6,
    latency:percentile(50) / 1000, latency:percentile(95) / 1000, latency:percentile(99) / 1000))
end
