// Requests to the server, and how they fail.

const ANSWER = 15000; // ms that the server has to answer a request

/** An error with a stable `code` that the page has words for, and the server's own words where it gave any. */
export class CallError extends Error {
  constructor(code, detail = "", retryAfter = 0) {
    super(detail || code);
    this.code = code;
    this.detail = detail;
    this.retryAfter = retryAfter;
  }
}

/** Fetch from the server; raises CallError with the problem's own words (RFC 9457). */
export async function ask(url, options) {
  let answer;
  try {
    answer = await fetch(url, { signal: AbortSignal.timeout(ANSWER), ...options });
  } catch {
    throw new CallError("gone");
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  const told = ["mode", "ended"].includes(problem.reason);
  const code = told ? problem.reason : ({ 404: "unknown", 503: "unavailable" }[answer.status] ?? "refused");
  throw new CallError(code, problem.detail, Number(answer.headers.get("Retry-After")) || 0);
}
