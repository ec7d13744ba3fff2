// Comma-separated values as RFC 4180 writes them, safe to open in a spreadsheet.

// A text that a spreadsheet would run as a formula gets an apostrophe before it. Numbers stay numbers.
function field(value) {
  if (typeof value === "number") return String(value);
  let text = String(value ?? "");
  if (/^[\s]*[=+\-@|%]|^[\t\r\n]/.test(text)) text = `'${text}`;
  return /[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export const csv = (rows) => rows.map((row) => row.map(field).join(",") + "\r\n").join("");

// The byte order mark tells spreadsheets that the text is UTF-8.
export const csvFile = (rows) => new Blob(["\ufeff", csv(rows)], { type: "text/csv;charset=utf-8" });
